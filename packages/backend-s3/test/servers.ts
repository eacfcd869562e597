import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { CreateBucketCommand, PutBucketPolicyCommand, S3Client } from "@aws-sdk/client-s3";
import { afterAll, beforeAll, describe } from "vitest";
import { S3_SERVER_NAMES, type S3Server, s3ServerBinary, startS3Server } from "../../../scripts/lib/s3-servers.mjs";
import type { S3Config } from "../src/index.js";

// Real servers. Where one is not built its tests are skipped, by name: node scripts/setup-system.mjs builds it.

interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

export class TestServer {
  readonly server: S3Server;
  /** With all rights, for what a test does behind the backend's back. */
  readonly admin: S3Client;
  /** What the backend runs with. */
  readonly credentials: Credentials;

  constructor(server: S3Server, credentials: Credentials) {
    this.server = server;
    this.credentials = credentials;
    const { endpoint, region } = server;
    this.admin = new S3Client({ endpoint, region, credentials: server.credentials, forcePathStyle: true });
  }

  /** A new bucket that the backend may use as docs/s3.md says. */
  async bucket(): Promise<string> {
    const Bucket = `kv-${randomBytes(8).toString("hex")}`;
    await this.admin.send(new CreateBucketCommand({ Bucket }));
    await this.allow(Bucket);
    return Bucket;
  }

  /** The policy of docs/s3.md, or a part of it: actions that `without` names are left out. */
  async allow(bucket: string, without: readonly string[] = []): Promise<void> {
    if (this.credentials === this.server.credentials) return; // root may do everything
    const policy = documentedPolicy(bucket);
    for (const statement of policy.Statement) {
      statement.Action = statement.Action.filter((action) => !without.includes(action));
      statement.Principal = { AWS: [this.credentials.accessKeyId] };
    }
    await this.admin.send(new PutBucketPolicyCommand({ Bucket: bucket, Policy: JSON.stringify(policy) }));
  }

  config(bucket: string, more: Partial<S3Config> = {}): S3Config {
    const { endpoint, region } = this.server;
    return { bucket, endpoint, region, prefix: "cache", ...more };
  }

  useCredentials({ accessKeyId, secretAccessKey }: Credentials = this.credentials): void {
    process.env.AWS_ACCESS_KEY_ID = accessKeyId;
    process.env.AWS_SECRET_ACCESS_KEY = secretAccessKey;
    process.env.AWS_EC2_METADATA_DISABLED = "true";
  }
}

interface Policy {
  Statement: { Action: string[]; Principal?: { AWS: string[] } }[];
}

function documentedPolicy(bucket: string): Policy {
  const text = readFileSync(new URL("../../../docs/s3.md", import.meta.url), "utf8");
  const [, json = ""] = /```json\n(\{\n {2}"Version"[\s\S]*?)```/.exec(text) ?? [];
  return JSON.parse(json.replaceAll("BUCKET", bucket)) as Policy;
}

/** versitygw can make users by one command: its tests run as one that has the documented policy and nothing else. */
function makeUser({ binary, credentials, endpoint, region }: S3Server): Credentials {
  const user = { accessKeyId: "kvferry-test", secretAccessKey: randomBytes(20).toString("hex") };
  const args = ["--access", user.accessKeyId, "--secret", user.secretAccessKey, "--role", "user"];
  const env = { ADMIN_ACCESS_KEY: credentials.accessKeyId, ADMIN_SECRET_KEY: credentials.secretAccessKey };
  const made = spawnSync(binary, ["admin", "--region", region, "--endpoint-url", endpoint, "create-user", ...args], {
    env: { ...process.env, ...env },
    encoding: "utf8",
  });
  if (made.status !== 0) throw new Error(`versitygw could not make a user: ${made.stderr}${made.stdout}`);
  return user;
}

/** A group of tests for each server. */
export function describeServers(title: string, body: (server: () => TestServer, name: string) => void): void {
  for (const name of S3_SERVER_NAMES) {
    const missing = s3ServerBinary(name) === undefined;
    const reason = missing ? " (not built: node scripts/setup-system.mjs)" : "";
    describe.skipIf(missing)(`${title}: ${name}${reason}`, { timeout: 60_000 }, () => {
      let running: TestServer | undefined;
      beforeAll(async () => {
        const server = await startS3Server(name);
        running = new TestServer(server, name === "versitygw" ? makeUser(server) : server.credentials);
        running.useCredentials();
      }, 40_000);
      afterAll(async () => {
        running?.admin.destroy();
        await running?.server.stop();
      }, 60_000);
      body(() => running as TestServer, name);
    });
  }
}
