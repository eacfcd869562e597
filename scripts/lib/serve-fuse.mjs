// `node scripts/lib/serve-fuse.mjs`: a FUSE file system that hangs while its daemon is stopped, for tests in other languages. Prints one line of JSON when
// it is there ({folder, pid}) and lives until its standard input ends.
import { mountFuseFaults } from "./fuse-faults.mjs";

const { folder, pid, unmount } = await mountFuseFaults();
process.stdout.write(`${JSON.stringify({ folder, pid })}\n`);
process.stdin.resume();
await new Promise((done) => process.stdin.once("end", done));
await unmount();
process.exit(0);
