import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DEFAULT_POLICY, POLICIES } from "@kvferry/core";
import { Ajv2020 } from "ajv/dist/2020.js";
import { describe, expect, it } from "vitest";
import { parseHttp, resolveConfig } from "../src/config.js";
import { checkConfigText, configSchema, readConfigFile } from "../src/config-file.js";
import { parseSize } from "../src/sizes.js";

function problemsOf(text: string): string[] {
  return checkConfigText(text).problems.map(({ line, message }) => `${line}: ${message}`);
}

function written(text: string): string {
  const file = join(mkdtempSync(join(tmpdir(), "kvferry-config-")), "kvferry.yaml");
  writeFileSync(file, text);
  return file;
}

describe("the configuration", () => {
  it("takes everything that it documents", () => {
    const { config, problems } = checkConfigText(`
socket: /run/kvferry/kvferry.sock
http: 127.0.0.1:9464
logLevel: debug
drainTimeoutMs: 5000
namespaceIdleMs: 0
limits:
  connectionsMax: 4
  namespacesMax: 4
  requestsMax: 8
  requestBytesMax: 1MiB
  batchKeysMax: 16
  sendBufferBytesMax: 1048576
  helloTimeoutMs: 1000
  operationsMax: 4
direct: { stagingBytes: 256MiB }
tiers:
  - backend: memory
    capacity: 16GiB
    policy: lru
  - backend: nvme
    name: drive
    path: /mnt/nvme
    capacity: 800GB
    segment: 64MiB
    direct: auto
    ioUring: auto
    discard: auto
    dailyWrites: 1TiB
  - backend: s3
    write: back
    bucket: blocks
    prefix: kv
    region: eu-central-1
    endpoint: https://s3.example.com
    forcePathStyle: true
    capacity: 10TiB
    objectsMax: 5000000
    policy: s3-fifo
    quotas: { a: 1TiB }
    socketsMax: 32
    sse: { type: "aws:kms", kmsKeyId: k }
    requestTimeoutMs: 5000
  - backend: sftp
    write: none
    host: store.example
    port: 2222
    user: kv
    root: /srv/kv
    privateKeyFile: /etc/kvferry/id
    passphraseEnv: KV_PASSPHRASE
    agent: true
    hostKey: SHA256:${"A".repeat(43)}
    knownHostsFile: /etc/ssh/ssh_known_hosts
    hostKeyCheck: true
    connectionsMax: 2
    requestsPerFileMax: 8
    fsync: true
  - backend: posix
    write: through
    root: /mnt/kv
    layout: kvferry
    adopt: true
    abandonable: true
    capacity: 200GiB
    filesMax: 1000000
    policy: lru
    quotas: { a: 1GiB }
    threads: 8
    fsync: false
    direct: auto
    deadlineMs: 1000
  - { backend: nfs, root: /mnt/nfs/kv, capacity: 1TiB, negativeTtlMs: 500, threads: 64 }
`);
    expect(problems).toEqual([]);
    expect(resolveConfig(config).tiers[2]).toMatchObject({
      ...{ capacityBytes: 10 * 2 ** 40, objectsMax: 5_000_000, policy: "s3-fifo", quotas: { a: 2 ** 40 } },
    });
    expect(resolveConfig(config)).toMatchObject({
      socketIsDefault: false,
      http: { host: "127.0.0.1", port: 9464 },
      limits: { requestBytesMax: 2 ** 20 },
      direct: { stagingBytes: 2 ** 28 },
      tiers: [
        { name: "memory", backend: "memory", capacityBytes: 16 * 2 ** 30, policy: "lru" },
        { name: "drive", backend: "nvme", path: "/mnt/nvme", capacityBytes: 8e11, dailyWriteBytesMax: 2 ** 40 },
        { name: "s3", backend: "s3", bucket: "blocks", write: "back", sse: { type: "aws:kms", kmsKeyId: "k" } },
        { name: "sftp", backend: "sftp", host: "store.example", root: "/srv/kv", write: "none", agent: true },
        { name: "posix", backend: "posix", root: "/mnt/kv", capacityBytes: 200 * 2 ** 30, quotas: { a: 2 ** 30 } },
        { name: "nfs", backend: "nfs", root: "/mnt/nfs/kv", capacityBytes: 2 ** 40, negativeTtlMs: 500 },
      ],
    });
  });

  it("needs nothing: an empty file is the default", () => {
    const config = resolveConfig(checkConfigText("# nothing\n").config, { XDG_DATA_HOME: "/d", XDG_RUNTIME_DIR: "/r" });
    expect(config).toMatchObject({
      socket: "/r/kvferry/kvferry.sock",
      socketIsDefault: true,
      http: { host: "127.0.0.1", port: 9464 },
      tiers: [{ backend: "posix", root: "/d/kvferry" }],
    });
    expect(config.direct.stagingBytes).toBe(64 * 2 ** 20);
    expect(() => resolveConfig({ direct: { stagingBytes: "5GiB" } })).toThrow(
      expect.objectContaining({ code: "CONFIG_INVALID", context: { field: "direct.stagingBytes" } }) as never,
    );
    expect(resolveConfig({}, {}).socket).toBe(`/tmp/kvferry-${process.getuid?.()}/kvferry.sock`);
  });

  it("names field and line of what is wrong, and what was meant", () => {
    const text = "sockett: /a\ntiers:\n  - backend: posix\n    root: /x\n    capasity: 3GiB\n    layout: vllmfs\n";
    expect(problemsOf(text)).toEqual([
      "1: unknown field 'sockett'; did you mean 'socket'?",
      "5: unknown field 'tiers[0].capasity'; did you mean 'capacity'?",
      "6: 'tiers[0].layout' must be one of kvferry, vllm-fs; did you mean 'vllm-fs'?",
    ]);
  });

  it.each([
    ["tiers:\n  - backend: posiks\n    root: /x\n", "2: 'tiers[0].backend' is 'posiks'; did you mean 'posix'?"],
    [
      "tiers:\n  - root: /x\n",
      "2: 'tiers[0].backend' is missing; it is one of posix, nfs, parallel-fs, memory, nvme, s3, sftp",
    ],
    ["tiers:\n  - backend: posix\n", "2: 'tiers[0].root' is missing"],
    ["http: nowhere\n", "1: 'http' must match pattern"],
    ["tiers: []\n", "1: 'tiers' must NOT have fewer than 1 items"],
    ["tiers:\n  - backend: memory\n    capacity: lots\n", "3: 'tiers[0].capacity' must match pattern"],
    ["direct:\n  stagingbytes: 1MiB\n", "2: unknown field 'direct.stagingbytes'; did you mean 'stagingBytes'?"],
    ["limits:\n  requestsMax: 0\n", "2: 'limits.requestsMax' must be >= 1"],
    ["a: [1\n", "not valid YAML"],
    ["socket: a\nsocket: b\n", "2: not valid YAML: Map keys must be unique"],
    ["just text\n", "1: 'the configuration' must be object"],
  ])("refuses %j", (text, problem) => {
    expect(problemsOf(text).join("\n")).toContain(problem);
  });

  it("tells tiers apart by name, and wants one that is written to", () => {
    const memory = { backend: "memory" } as const;
    expect(() => resolveConfig({ tiers: [memory, memory] })).toThrow(
      /tiers\[1\].name' is 'memory', as that of tiers\[0\]/,
    );
    expect(resolveConfig({ tiers: [memory, { ...memory, name: "more" }] }).tiers).toHaveLength(2);
    const none = { ...memory, write: "none" } as const;
    expect(() => resolveConfig({ tiers: [none] })).toThrow(/tiers\[0\].write/);
    expect(() => resolveConfig({ tiers: [{ backend: "nvme", path: "/x" }] })).toThrow(
      /tiers\[0\].capacity' is missing/,
    );
  });

  it("knows the policies that there are", () => {
    const schema = JSON.stringify(configSchema());
    expect(schema).toContain(`"enum":${JSON.stringify(Object.keys(POLICIES))}`);
    expect(schema).toContain(`Default: ${DEFAULT_POLICY}.`);
  });

  it("reads relative paths from where the file is", () => {
    const file = written("socket: k.sock\ntiers:\n  - backend: posix\n    root: blocks\n");
    const config = readConfigFile(file);
    expect(config.tiers?.[0]).toMatchObject({ root: file.replace("kvferry.yaml", "blocks") });
    expect(config.socket).toBe(file.replace("kvferry.yaml", "k.sock"));
  });

  it("says which file could not be read, and lists every problem of one", () => {
    expect(() => readConfigFile("/nowhere.yaml")).toThrow(/cannot read the configuration \/nowhere.yaml/);
    const file = written("soket: a\nhtpp: b\n");
    expect(() => readConfigFile(file)).toThrow(`${file}:2: unknown field 'htpp'; did you mean 'http'?`);
  });

  it("has a schema that says what each field is for", () => {
    const schema = configSchema() as { properties: Record<string, { description?: string }> };
    for (const property of Object.values(schema.properties)) expect(property.description).toMatch(/\w/);
    expect(() => new Ajv2020({ discriminator: true, allowUnionTypes: true }).compile(configSchema())).not.toThrow();
  });
});

describe("sizes", () => {
  it.each([
    ["200GiB", 200 * 2 ** 30],
    ["1.5TB", 1.5e12],
    ["64 MiB", 64 * 2 ** 20],
    ["1kB", 1000],
    ["512", 512],
    [4096, 4096],
    ["GiB", undefined],
    ["-1GiB", undefined],
    ["1 XiB", undefined],
    ["99999999TiB", undefined],
    [1.5, undefined],
  ])("%s is %s", (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });
});

describe("http addresses", () => {
  it("are HOST:PORT or off", () => {
    expect(parseHttp("off")).toBeUndefined();
    expect(parseHttp("[::1]:80")).toEqual({ host: "::1", port: 80 });
    expect(parseHttp("localhost:0")).toEqual({ host: "localhost", port: 0 });
    for (const wrong of ["", "80", ":80", "a:b", "a:99999", "::1:80"]) expect(() => parseHttp(wrong)).toThrow(/http/);
  });
});
