import { pytestSuite } from "./lib/pytest.mjs";

export const name = "python";
export const { available, run } = pytestSuite(name, "apps/vllm-plugin/tests");
