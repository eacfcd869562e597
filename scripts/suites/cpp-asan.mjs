import { cppSuite } from "./lib/cpp.mjs";

export const name = "cpp-asan";
export const { available, run } = cppSuite(name, "address,undefined");
