import { describe, expect, it } from "vitest";
import { Background, untilAborted } from "../src/index.js";

describe("work in the background", () => {
  it("is waited for, also when it fails or begins more of it, and nobody has to hear of its failure", async () => {
    const background = new Background();
    const ended: string[] = [];
    const task = (name: string, then: () => void) => async (): Promise<void> => {
      await new Promise((done) => setImmediate(done));
      ended.push(name);
      then();
    };
    const first = task("first", () => {
      void background.start(
        task("second", () => {
          throw new Error("in vain");
        }),
      );
    });
    expect(await background.start(async () => "its own result")).toBe("its own result");
    void background.start(first);
    await background.idle();
    expect(ended).toEqual(["first", "second"]);
  });

  it("outlives the patience of who waits for it", async () => {
    const controller = new AbortController();
    let end = (_value: string): void => {};
    const work = new Promise<string>((done) => {
      end = done;
    });
    const waiting = untilAborted(work, controller.signal);
    controller.abort(new Error("enough"));
    await expect(waiting).rejects.toThrow("enough");
    await expect(untilAborted(work, controller.signal)).rejects.toThrow("enough");
    end("whole");
    expect(await untilAborted(work, new AbortController().signal)).toBe("whole");
  });
});
