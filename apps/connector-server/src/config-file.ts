import { readFileSync } from "node:fs";
import { dirname, isAbsolute, resolve } from "node:path";
import { KvferryError } from "@kvferry/core";
import type { ErrorObject } from "ajv";
import { Ajv2020 } from "ajv/dist/2020.js";
import { type Document, isMap, isNode, isScalar, LineCounter, parseDocument } from "yaml";
import type { ServerConfig } from "./config.js";
import { isFolderTier, type SftpTierConfig, type TierConfig } from "./storage/tier-config.js";
import { nearest } from "./suggest.js";

const FILE_BYTES_MAX = 2 ** 20;

/** One thing to mend in a configuration file. */
export interface ConfigProblem {
  /** For instance `tiers[0].root`; "" for the file itself. */
  readonly field: string;
  readonly line: number | undefined;
  /** What is wrong and, where it can be told, the fix. */
  readonly message: string;
}

/** The published JSON Schema. */
export function configSchema(): Record<string, unknown> {
  return JSON.parse(readFileSync(new URL("../schema/kvferry.config.schema.json", import.meta.url), "utf8"));
}

/** Reads and checks a configuration file. Relative paths in it start at its folder.
 * @throws KvferryError CONFIG_INVALID whose message has a line for each problem. */
export function readConfigFile(path: string): ServerConfig {
  const text = readText(path);
  const { config, problems } = checkConfigText(text);
  if (problems.length > 0) {
    const lines = problems.map(({ line, message }) => `  ${path}${line === undefined ? "" : `:${line}`}: ${message}`);
    throw new KvferryError(
      "CONFIG_INVALID",
      `the configuration has ${problems.length === 1 ? "a problem" : `${problems.length} problems`}:\n${lines.join("\n")}`,
      {
        operation: "config",
        context: { path, field: problems[0]?.field },
      },
    );
  }
  return withAbsolutePaths(config, dirname(resolve(path)));
}

/** Checks the text of a configuration: YAML, then the schema. */
export function checkConfigText(text: string): { config: ServerConfig; problems: readonly ConfigProblem[] } {
  const lineCounter = new LineCounter();
  const document = parseDocument(text, { lineCounter });
  const syntax = document.errors.map((error) => ({
    field: "",
    line: lineCounter.linePos(error.pos[0]).line,
    message: `not valid YAML: ${error.message.split("\n")[0]}`,
  }));
  if (syntax.length > 0) return { config: {}, problems: syntax };
  const value: unknown = document.toJS() ?? {}; // an empty file is the default configuration
  const ajv = new Ajv2020({ allErrors: true, verbose: true, discriminator: true, allowUnionTypes: true });
  const validate = ajv.compile(configSchema());
  if (validate(value)) return { config: value as ServerConfig, problems: [] };
  const places = new Places(document, lineCounter);
  return { config: {}, problems: (validate.errors ?? []).map((error) => problemOf(error, places)) };
}

function readText(path: string): string {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (cause) {
    throw new KvferryError("CONFIG_INVALID", `cannot read the configuration ${path}: ${(cause as Error).message}`, {
      operation: "config",
      context: { path },
      cause,
    });
  }
  if (bytes.length > FILE_BYTES_MAX) {
    throw new KvferryError("CONFIG_INVALID", `the configuration ${path} has more than ${FILE_BYTES_MAX} bytes`);
  }
  return bytes.toString("utf8");
}

function withAbsolutePaths(config: ServerConfig, folder: string): ServerConfig {
  const from = (path: string): string => (isAbsolute(path) ? path : resolve(folder, path));
  const moved = (tier: TierConfig): TierConfig => {
    if (isFolderTier(tier)) return { ...tier, root: from(tier.root) };
    if (tier.backend === "nvme") return { ...tier, path: from(tier.path) };
    return tier.backend === "sftp" ? withLocalFiles(tier, from) : tier;
  };
  return {
    ...config,
    ...(config.socket === undefined ? {} : { socket: from(config.socket) }),
    ...(config.tiers === undefined ? {} : { tiers: config.tiers.map(moved) }),
  };
}

/** The root of an SFTP tier is the remote host's; its keys are here. */
function withLocalFiles(tier: SftpTierConfig, from: (path: string) => string): SftpTierConfig {
  const { privateKeyFile, knownHostsFile } = tier;
  return {
    ...tier,
    ...(privateKeyFile !== undefined && { privateKeyFile: from(privateKeyFile) }),
    ...(knownHostsFile !== undefined && { knownHostsFile: from(knownHostsFile) }),
  };
}

/** Finds lines in the document. */
class Places {
  readonly #document: Document;
  readonly #lines: LineCounter;

  constructor(document: Document, lines: LineCounter) {
    this.#document = document;
    this.#lines = lines;
  }

  line(path: readonly string[], key?: string): number | undefined {
    const node = path.length === 0 ? this.#document.contents : this.#document.getIn(path.map(stepOf), true);
    if (key !== undefined && isMap(node)) {
      const pair = node.items.find((each) => isScalar(each.key) && String(each.key.value) === key);
      return isNode(pair?.key) ? this.#lineOf(pair.key.range) : undefined;
    }
    return isNode(node) ? this.#lineOf(node.range) : undefined;
  }

  value(path: readonly string[]): unknown {
    return this.#document.getIn(path.map(stepOf));
  }

  #lineOf(range: readonly number[] | null | undefined): number | undefined {
    return range?.[0] === undefined ? undefined : this.#lines.linePos(range[0]).line;
  }
}

function problemOf(error: ErrorObject, places: Places): ConfigProblem {
  const path = error.instancePath.split("/").slice(1).map(unescapePointer);
  const at = fieldName(path);
  const parent = error.parentSchema as { properties?: Record<string, unknown>; description?: string } | undefined;
  switch (error.keyword) {
    case "additionalProperties": {
      const name = String(error.params.additionalProperty);
      const known = Object.keys(parent?.properties ?? {});
      const meant = nearest(name, known);
      const fix = meant === undefined ? `known here: ${known.join(", ")}` : `did you mean '${meant}'?`;
      const field = fieldName([...path, name]);
      return { field, line: places.line(path, name), message: `unknown field '${field}'; ${fix}` };
    }
    case "required": {
      const field = fieldName([...path, String(error.params.missingProperty)]);
      return { field, line: places.line(path), message: `'${field}' is missing` };
    }
    case "enum": {
      const allowed = (error.params.allowedValues as unknown[]).map(String);
      const meant = nearest(String(places.value(path)), allowed);
      const fix = meant === undefined ? "" : `; did you mean '${meant}'?`;
      return { field: at, line: places.line(path), message: `'${at}' must be one of ${allowed.join(", ")}${fix}` };
    }
    case "discriminator":
      return backendProblem(path, places);
    default: {
      const hint = parent?.description === undefined ? "" : ` (${parent.description})`;
      return { field: at, line: places.line(path), message: `'${at || "the configuration"}' ${error.message}${hint}` };
    }
  }
}

const BACKENDS: readonly string[] = ["posix", "nfs", "parallel-fs", "memory", "nvme", "s3", "sftp"];

function backendProblem(path: readonly string[], places: Places): ConfigProblem {
  const field = fieldName([...path, "backend"]);
  const value = places.value([...path, "backend"]);
  if (value === undefined) {
    return { field, line: places.line(path), message: `'${field}' is missing; it is one of ${BACKENDS.join(", ")}` };
  }
  const meant = nearest(String(value), BACKENDS);
  const fix = meant === undefined ? `this version has ${BACKENDS.join(", ")}` : `did you mean '${meant}'?`;
  return { field, line: places.line([...path, "backend"]), message: `'${field}' is '${String(value)}'; ${fix}` };
}

function stepOf(step: string): string | number {
  return /^\d+$/.test(step) ? Number(step) : step;
}

function unescapePointer(step: string): string {
  return step.replaceAll("~1", "/").replaceAll("~0", "~");
}

function fieldName(path: readonly string[]): string {
  return path.map((step, i) => (/^\d+$/.test(step) ? `[${step}]` : `${i === 0 ? "" : "."}${step}`)).join("");
}
