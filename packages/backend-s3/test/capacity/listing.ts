import { ListObjectsV2Command, type ListObjectsV2CommandOutput } from "@aws-sdk/client-s3";
import type { TestServer } from "../servers.js";

/** Objects of blocks below the prefix "cache", damaged ones too: their names and bytes. */
export async function blockObjects(server: TestServer, bucket: string): Promise<{ name: string; bytes: number }[]> {
  const found: { name: string; bytes: number }[] = [];
  let token: string | undefined;
  do {
    const page: ListObjectsV2CommandOutput = await server.admin.send(
      new ListObjectsV2Command({ Bucket: bucket, Prefix: "cache/", ContinuationToken: token }),
    );
    for (const { Key: name = "", Size: bytes = 0 } of page.Contents ?? []) {
      if (!name.startsWith("cache/capacity/") && !name.endsWith("namespace.json")) found.push({ name, bytes });
    }
    token = page.NextContinuationToken;
  } while (token !== undefined);
  return found;
}

export async function blocksIn(server: TestServer, bucket: string): Promise<number> {
  return (await blockObjects(server, bucket)).length;
}
