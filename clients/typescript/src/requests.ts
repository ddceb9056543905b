import { invalid } from "./errors.js";

/** The largest duration of protobuf, 10,000 years. */
const MAX_SECONDS = 315_576_000_000;

/**
 * Encodes a request, before it reaches gRPC, which would report a wrong value as a failure of the server.
 *
 * @throws GatewayError with the code `INVALID_ARGUMENT` if a value cannot be encoded
 */
export function encode<Request>(
  { requestSerialize }: { requestSerialize: (request: Request) => Buffer },
  build: () => Request,
): Buffer {
  try {
    return requestSerialize(build());
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error);
    throw invalid(`the request cannot be encoded: ${problem}`, error);
  }
}

/** Passes encoded bytes through gRPC. */
export function asEncoded(bytes: Buffer): Buffer {
  return bytes;
}

/** Returns a duration of protobuf. */
export function duration(name: string, value: number): { seconds: number; nanos: number } {
  if (!(Math.abs(value) <= MAX_SECONDS)) {
    throw invalid(`${name} must be a number of seconds (got ${value})`);
  }
  let seconds = Math.trunc(value);
  let nanos = Math.round((value - seconds) * 1e9);
  if (Math.abs(nanos) === 1e9) {
    seconds += Math.sign(nanos);
    nanos = 0;
  }
  return { seconds, nanos };
}

/** Checks a `uid`, which is also sent as a header. */
export function checkUid(uid: string): void {
  if (typeof uid === "string" && /^\d+$/.test(uid)) return;
  throw invalid(`uid must be a whole number as a string (got ${JSON.stringify(uid)})`);
}
