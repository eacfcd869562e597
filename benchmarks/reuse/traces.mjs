// Traces as JSON lines: one request a line, `{"timestamp": ms, "hash_ids": [id, …]}`, other fields are ignored. Equal id = equal block and equal
// prefix before it.
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";

/** Reads FILE.jsonl or FILE.jsonl.gz. */
export function readTrace(file) {
  const bytes = readFileSync(file);
  const text = (file.endsWith(".gz") ? gunzipSync(bytes) : bytes).toString("utf8");
  const requests = [];
  for (const [index, line] of text.split("\n").entries()) {
    if (line.trim() === "") continue;
    requests.push(parseRequest(line, `${file}:${index + 1}`));
  }
  return requests;
}

function parseRequest(line, where) {
  let request;
  try {
    request = JSON.parse(line);
  } catch (cause) {
    throw new Error(`${where} is no JSON`, { cause });
  }
  if (!Array.isArray(request?.hash_ids)) throw new Error(`${where} has no list hash_ids`);
  return { timestamp: Number(request.timestamp ?? 0), hash_ids: request.hash_ids };
}

/** The trace with its blocks numbered from 0, so that arrays can hold what is known of each. */
export function numbered(requests) {
  const numbers = new Map();
  let references = 0;
  const dense = requests.map(({ timestamp, hash_ids }) => {
    references += hash_ids.length;
    const blocks = Int32Array.from(hash_ids, (id) => {
      const known = numbers.get(id);
      if (known !== undefined) return known;
      numbers.set(id, numbers.size);
      return numbers.size - 1;
    });
    return { nowMs: timestamp, blocks };
  });
  return { requests: dense, distinct: numbers.size, references };
}
