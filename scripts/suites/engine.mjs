import { pytestSuite } from "./lib/pytest.mjs";

export const name = "engine";
export const { available, run } = pytestSuite(name, "apps/vllm-plugin/engine_tests");
