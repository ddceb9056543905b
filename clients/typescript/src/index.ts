/**
 * A client of the Job Gateway: it sends jobs, and watches them over broken connections until they end.
 *
 * @packageDocumentation
 */
export type { CallSettings, Retry } from "./calls.js";
export { Client, type ClientOptions, type ReadSettings, type WaitSettings } from "./client.js";
export type { Tls } from "./connections.js";
export { type JobUpdate, resultOf } from "./content.js";
export type { Token } from "./credential.js";
export {
  type Action,
  type Code,
  type ErrorDetails,
  type FieldViolation,
  GatewayError,
} from "./errors.js";
export * from "./gen/jobgateway/v1/job_service.js";
export type { Finished, StreamSettings, Watch, WatchSettings } from "./watch.js";
export type { WatchAllEvent } from "./watch-all.js";
