import { randomBytes } from "node:crypto";
import { GetObjectCommand } from "@aws-sdk/client-s3";
import { KvferryError } from "@kvferry/core";
import { afterEach, describe, expect, it, vi } from "vitest";
import { S3Backend, type S3Config } from "../src/index.js";
import { KEY_BYTES, namespaceOf, recordingLogger, textOf } from "./fixtures.js";
import { describeServers } from "./servers.js";

// What an operator reads when something is set up wrongly: the one thing to correct, and never a secret.

const context = { namespace: namespaceOf("open"), keyBytes: KEY_BYTES, blockBytes: 4096 };

async function openError(config: S3Config, lines: string[] = []): Promise<KvferryError> {
  const { logger, lines: said } = recordingLogger();
  const error: unknown = await new S3Backend(config).open({ ...context, logger }).then(
    () => new Error("open has worked"),
    (thrown: unknown) => thrown,
  );
  lines.push(...said, textOf(error));
  if (!(error instanceof KvferryError)) throw error;
  return error;
}

describeServers("s3 at open", (server, name) => {
  afterEach(() => {
    vi.useRealTimers();
    server().useCredentials();
  });

  it("names a bucket that is not there", async () => {
    const error = await openError(server().config("no-such-bucket-here"));
    expect([error.code, error.status, error.context.field]).toEqual(["CONFIG_INVALID", "permanent", "bucket"]);
    expect(error.message).toContain("NoSuchBucket");
  });

  it("names the region where it is the wrong one", async () => {
    const error = await openError(server().config(await server().bucket(), { region: "us-west-2" }));
    expect([error.code, error.status, error.context.field]).toEqual(["CONFIG_INVALID", "permanent", "region"]);
    expect(error.message).toMatch(/region/);
  });

  it("says that the clock is wrong", async () => {
    const bucket = await server().bucket();
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() - 3_600_000 });
    const error = await openError(server().config(bucket));
    expect([error.code, error.status]).toEqual(["PERMISSION", "permanent"]);
    expect(error.message).toMatch(/clock/);
  });

  it("says that the access key is not known, and never what the secret is", async () => {
    const wrong = { accessKeyId: "AKIAUNKNOWNUNKNOWN00", secretAccessKey: randomBytes(20).toString("hex") };
    const config = server().config(await server().bucket());
    server().useCredentials(wrong);
    const lines: string[] = [];
    const error = await openError(config, lines);
    expect([error.code, error.status]).toEqual(["PERMISSION", "permanent"]);
    expect(error.message).toContain("AWS_ACCESS_KEY_ID");
    expectNoSecret(lines, wrong);
  });

  it("says that the secret is wrong, and never what it is, nor what was signed", async () => {
    const { accessKeyId } = server().credentials;
    const wrong = { accessKeyId, secretAccessKey: randomBytes(20).toString("hex") };
    const config = server().config(await server().bucket());
    server().useCredentials(wrong);
    const lines: string[] = [];
    const error = await openError(config, lines);
    expect([error.code, error.status]).toEqual(["PERMISSION", "permanent"]);
    expect(error.message).toContain("AWS_SECRET_ACCESS_KEY");
    expectNoSecret(lines, wrong);
    expectNoSecret(lines, server().credentials);
  });

  it.skipIf(name !== "versitygw")("says that the credentials may not do it, and what is needed", async () => {
    const bucket = await server().bucket();
    for (const action of ["s3:PutObject", "s3:ListBucket"]) {
      await server().allow(bucket, [action]);
      const error = await openError(server().config(bucket));
      expect([error.code, error.status]).toEqual(["PERMISSION", "permanent"]);
      expect(error.message).toContain("docs/s3.md");
    }
  });

  it("finds that the server honours If-None-Match, and leaves the namespace's description", async () => {
    const bucket = await server().bucket();
    const backend = new S3Backend(server().config(bucket));
    await backend.open(context);
    expect(backend.conditional).toBe(true);
    const Key = `cache/${context.namespace.digestHex}/namespace.json`;
    const { Body } = await server().admin.send(new GetObjectCommand({ Bucket: bucket, Key }));
    const text = await (Body as { transformToString(): Promise<string> }).transformToString();
    expect(JSON.parse(text)).toMatchObject({ digest: context.namespace.digestHex, keyBytes: KEY_BYTES });
    await backend.close();
  });
});

describe("s3 at open, without a server", () => {
  const variables = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_REGION", "HOME"];

  afterEach(() => {
    vi.unstubAllEnvs();
  });

  it("says that nobody listens at the endpoint, which may pass", async () => {
    vi.stubEnv("AWS_ACCESS_KEY_ID", "a");
    vi.stubEnv("AWS_SECRET_ACCESS_KEY", "b");
    const error = await openError({ bucket: "kv-cache", endpoint: "http://127.0.0.1:9", region: "x" });
    expect([error.code, error.status, error.context.field]).toEqual(["UNAVAILABLE", "temporary", "endpoint"]);
  });

  it("says that there are no credentials, and where they would be looked for", async () => {
    for (const variable of variables) vi.stubEnv(variable, undefined);
    vi.stubEnv("AWS_EC2_METADATA_DISABLED", "true");
    vi.stubEnv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/credentials");
    vi.stubEnv("AWS_CONFIG_FILE", "/nonexistent/config");
    const error = await openError({ bucket: "kv-cache", endpoint: "http://127.0.0.1:9", region: "x" });
    expect([error.code, error.status]).toEqual(["PERMISSION", "permanent"]);
    expect(error.message).toContain("AWS_PROFILE");
  });

  it("says that no region is known", async () => {
    for (const variable of variables) vi.stubEnv(variable, undefined);
    vi.stubEnv("AWS_CONFIG_FILE", "/nonexistent/config");
    vi.stubEnv("AWS_ACCESS_KEY_ID", "a");
    vi.stubEnv("AWS_SECRET_ACCESS_KEY", "b");
    const error = await openError({ bucket: "kv-cache", endpoint: "http://127.0.0.1:9" });
    expect([error.code, error.context.field]).toEqual(["CONFIG_INVALID", "region"]);
  });
});

function expectNoSecret(lines: readonly string[], credentials: { secretAccessKey: string }): void {
  const text = lines.join("\n");
  expect(text).not.toContain(credentials.secretAccessKey);
  expect(text).not.toMatch(/Signature=|AWS4-HMAC-SHA256|StringToSign|Credential=/);
}
