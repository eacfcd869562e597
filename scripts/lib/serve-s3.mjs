// `node scripts/lib/serve-s3.mjs BUCKET`: a real S3 server with that bucket, for tests in other languages. Prints one line of JSON when it
// is there ({endpoint, region, bucket, accessKeyId, secretAccessKey}) and lives until its standard input ends.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { startS3Server } from "./s3-servers.mjs";

const [bucket] = process.argv.slice(2);
if (bucket === undefined || !/^[a-z0-9-]{3,63}$/.test(bucket)) {
  process.stderr.write("Usage: node scripts/lib/serve-s3.mjs BUCKET\n");
  process.exit(2);
}
const server = await startS3Server("versitygw");
mkdirSync(join(server.data, "objects", bucket)); // its buckets are folders
const { endpoint, region, credentials } = server;
process.stdout.write(`${JSON.stringify({ endpoint, region, bucket, ...credentials })}\n`);
process.stdin.resume();
await new Promise((done) => process.stdin.once("end", done));
await server.stop();
process.exit(0);
