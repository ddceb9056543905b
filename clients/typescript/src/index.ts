/**
 * A client of the Job Gateway: it sends jobs, and watches them over broken connections until they end.
 *
 * @packageDocumentation
 */
export type { CallSettings, Retry } from "./calls.js";
export { Client, type ClientOptions } from "./client.js";
export type { Tls, Token } from "./connections.js";
export type { JobUpdate } from "./content.js";
export { type Action, type Code, type ErrorDetails, GatewayError } from "./errors.js";
export * from "./gen/jobgateway/v1/job_service.js";
export type { Finished, StreamSettings, Watch, WatchSettings } from "./watch.js";
export type { WatchAllEvent } from "./watch-all.js";
