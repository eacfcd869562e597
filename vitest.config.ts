import { existsSync, readdirSync } from "node:fs";
import { basename } from "node:path";
import { defineConfig } from "vitest/config";

/** Workspace packages resolve to their TypeScript sources under the first condition, so tests need no build. Not "module", which Vite has by
 * default: what packages have there is for bundlers, and Node cannot import all of it (the AWS SDK's). */
const conditions = ["kvferry-source", "node", "development|production"];

const folders = [
  ...readdirSync("packages").map((name) => `packages/${name}`),
  "native",
  "apps/connector-server",
  "benchmarks",
].filter((folder) => existsSync(`${folder}/test`));

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    environment: "node",
    projects: folders.map((root) => ({
      extends: true as const,
      root,
      test: { name: basename(root), include: ["test/**/*.test.ts"] },
    })),
  },
});
