// `node scripts/lib/serve-sshd.mjs`: a real OpenSSH server of its own, for tests in other languages. Prints one line of JSON when it is there
// ({host, port, user, hostKey, keyFile, folder}) and lives until its standard input ends.
import { startSshd } from "./sshd.mjs";

const { host, port, user, hostKey, keyFile, folder, stop } = await startSshd();
process.stdout.write(`${JSON.stringify({ host, port, user, hostKey, keyFile, folder })}\n`);
process.stdin.resume();
await new Promise((done) => process.stdin.once("end", done));
await stop();
process.exit(0);
