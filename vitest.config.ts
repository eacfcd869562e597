import { existsSync, readdirSync } from "node:fs";
import { basename } from "node:path";
import { defineConfig } from "vitest/config";

/** Workspace packages resolve to their TypeScript sources under this condition, so tests need no build. */
const conditions = ["kvferry-source", "module", "node", "development|production"];

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
