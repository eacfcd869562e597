import { cppSuite } from "./lib/cpp.mjs";

export const name = "cpp-tsan";
export const { available, run } = cppSuite(name, "thread");
