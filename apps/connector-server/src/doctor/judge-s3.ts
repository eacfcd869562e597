import type { S3Facts } from "@kvferry/backend-s3";
import type { Finding } from "@kvferry/core";
import { bytesText } from "../sizes.js";

/** What the facts of a bucket mean. */
export function judgeS3(facts: S3Facts): Finding[] {
  return [conditional(facts), checksum(facts), ranges(facts), listing(facts), multipart(facts), speed(facts)];
}

function conditional({ conditionalCreate }: S3Facts): Finding {
  const subject = "If-None-Match";
  return conditionalCreate
    ? { severity: "fine", subject, found: "honoured", means: "of two servers that store one block, one writes it" }
    : {
        ...{ severity: "advice", subject, found: "ignored: the second put overwrote the first" },
        means: "a block that two servers store at once is written twice, and servers cannot hold a `capacity` together",
        change: "keep the bucket small by a lifecycle rule; do not set `capacity`",
      };
}

function checksum({ verifiesChecksum }: S3Facts): Finding {
  const subject = "CRC-32C";
  return verifiesChecksum
    ? {
        severity: "fine",
        subject,
        found: "a put with a wrong one is refused",
        means: "damage on the way is found at the put",
      }
    : {
        ...{ severity: "advice", subject, found: "a put with a wrong one is taken" },
        means: "damage on the way is found at the load only, where kvferry verifies each block",
        change: "nothing, if the storage cannot check it",
      };
}

function ranges({ ranges: work }: S3Facts): Finding {
  const subject = "ranges";
  return work
    ? { severity: "fine", subject, found: "answered", means: "large blocks are read by several requests at a time" }
    : {
        ...{ severity: "problem", subject, found: "answered with other bytes" },
        means: "large blocks cannot be read in parts: every load of one would be CORRUPT",
        change: "set `rangeFromBytes` above the size of the blocks, or use another storage",
      };
}

function listing({ listsAtOnce }: S3Facts): Finding {
  const subject = "listing";
  return listsAtOnce
    ? {
        severity: "fine",
        subject,
        found: "shows an object as soon as it is put",
        means: "what is there is counted right",
      }
    : {
        ...{ severity: "problem", subject, found: "does not show what has just been put" },
        means: "blocks are counted late: a `capacity` would not be held",
        change: "do not set `capacity`, or use a storage whose listings are consistent",
      };
}

function multipart({ multipart: works }: S3Facts): Finding {
  const subject = "uploads in parts";
  if (works !== "no") {
    return { severity: "fine", subject, found: works, means: "large blocks are written by several requests at a time" };
  }
  return {
    ...{ severity: "problem", subject, found: "do not work" },
    means: "blocks above `multipartFromBytes` cannot be stored",
    change: "set `multipartFromBytes` above the size of the blocks",
  };
}

function speed({ speeds, headMs }: S3Facts): Finding {
  const rate = (bytes: number): string => `${bytesText(bytes)}/s`;
  const cells = speeds.map(
    ({ objectBytes, depth, putBytesPerSecond, getBytesPerSecond }) =>
      `${bytesText(objectBytes)}, ${depth} at a time: put ${rate(putBytesPerSecond)}, get ${rate(getBytesPerSecond)}`,
  );
  return {
    ...{ severity: "fine", subject: "speed", found: `a HEAD takes ${headMs.toFixed(1)} ms; ${cells.join("; ")}` },
    means: "larger chunks and more sockets (`socketsMax`) give more",
  };
}
