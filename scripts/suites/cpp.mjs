import { cppSuite } from "./lib/cpp.mjs";

export const name = "cpp";
export const { available, run } = cppSuite(name);
