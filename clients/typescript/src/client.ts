import type { ChannelOptions } from "@grpc/grpc-js";
import { type CallSettings, type UnaryCall, unary } from "./calls.js";
import { Connections, Credential, type Tls, type Token } from "./connections.js";
import type { GatewayError } from "./errors.js";
import {
  CancelJobRequest,
  type DeepPartial,
  GetJobRequest,
  type Job,
  SendJobRequest,
  WaitJobRequest,
} from "./gen/jobgateway/v1/job_service.js";
import { type StreamSettings, Watch, type WatchSettings } from "./watch.js";
import { type WatchAllEvent, watchAll } from "./watch-all.js";

// The gateway gives up a read after 10 silent seconds, and a submission after 120.
const READ_SECONDS = 30;
const SEND_SECONDS = 150;
/** Of a `WaitJob` without a timeout. */
const WAIT_SECONDS = 40;

/** Options of a client. */
export interface ClientOptions {
  token?: Token | undefined;
  /** TLS; without it, the connection is plaintext. */
  tls?: Tls | undefined;
  /** A gRPC service config as JSON (docs/clients/index.md). */
  serviceConfig?: string | undefined;
  /** Further options of grpc-js, which replace those of the client. */
  channelOptions?: ChannelOptions | undefined;
}

/**
 * A client of a gateway. Its calls share one connection. A broken one is replaced once for all of them, and closed after its
 * last call. Each failed call throws a `GatewayError`, or the reason of its `signal`.
 */
export class Client {
  readonly #connections: Connections;
  readonly #credential: Credential;

  /** Connects to `target`, such as `127.0.0.1:50051`, at the first call. */
  constructor(target: string, { token, tls, serviceConfig, channelOptions }: ClientOptions = {}) {
    this.#credential = new Credential(token);
    this.#connections = new Connections(target, tls, {
      ...(serviceConfig === undefined ? {} : { "grpc.service_config": serviceConfig }),
      "grpc.keepalive_time_ms": 20_000,
      "grpc.keepalive_timeout_ms": 10_000,
      // Without it, a new client would share the connection of the old one.
      "grpc.use_local_subchannel_pool": 1,
      ...channelOptions,
    });
  }

  /**
   * Sends a job. The request is sent again if certainly no job was created, or if it has a `requestId`, which makes that
   * safe.
   */
  send(request: DeepPartial<SendJobRequest>, settings: CallSettings = {}): Promise<Job> {
    const complete = SendJobRequest.fromPartial(request);
    return this.#call(
      {
        method: (stub) => stub.sendJob,
        request: complete,
        deadlineSeconds: SEND_SECONDS,
        mayRetry: (error) => error.maySendAgain(complete),
      },
      settings,
    );
  }

  /** Reads a job once. */
  get(
    uid: string,
    { contentFormat, ...settings }: CallSettings & Pick<StreamSettings, "contentFormat"> = {},
  ): Promise<Job> {
    const request = GetJobRequest.fromPartial({ uid, contentFormat });
    return this.#call(
      { method: (stub) => stub.getJob, request, uid, deadlineSeconds: READ_SECONDS, mayRetry },
      settings,
    );
  }

  /** Asks to cancel a job, and returns its state. The job may continue for a while. */
  cancel(uid: string, settings: CallSettings = {}): Promise<Job> {
    const request = CancelJobRequest.create({ uid });
    return this.#call(
      { method: (stub) => stub.cancelJob, request, uid, deadlineSeconds: READ_SECONDS, mayRetry },
      settings,
    );
  }

  /**
   * Waits until a job is done, without a stream. With `timeoutSeconds`, it is one call, whose job may not be done.
   */
  async wait(
    uid: string,
    { timeoutSeconds, ...settings }: CallSettings & { timeoutSeconds?: number } = {},
  ): Promise<Job> {
    const timeout = timeoutSeconds === undefined ? undefined : { seconds: timeoutSeconds };
    const request = WaitJobRequest.fromPartial({ uid, timeout });
    const deadlineSeconds = (timeoutSeconds ?? WAIT_SECONDS) + READ_SECONDS;
    for (;;) {
      const job = await this.#call(
        { method: (stub) => stub.waitJob, request, uid, deadlineSeconds, mayRetry },
        settings,
      );
      if (job.done || timeout) return job;
    }
  }

  /** Sends a job and watches it in one call. Before the job is known, it is sent again under the conditions of `send`. */
  run(request: DeepPartial<SendJobRequest>, settings: WatchSettings = {}): Watch {
    const send = SendJobRequest.fromPartial(request);
    return new Watch(this.#connections, this.#credential, { send }, settings);
  }

  /** Watches a job until it ends. */
  watch(uid: string, settings: WatchSettings = {}): Watch {
    return new Watch(this.#connections, this.#credential, { uid }, settings);
  }

  /** Watches many jobs on one stream, until each has ended or its watch has failed for good. */
  watchAll(
    uids: Iterable<string>,
    settings: StreamSettings = {},
  ): AsyncGenerator<WatchAllEvent, void, undefined> {
    return watchAll(this.#connections, this.#credential, uids, settings);
  }

  /** Closes the connections. Calls in flight fail. */
  close(): void {
    this.#connections.close();
  }

  #call<Request>(call: UnaryCall<Request>, settings: CallSettings): Promise<Job> {
    return unary(this.#connections, this.#credential, call, settings);
  }
}

function mayRetry(error: GatewayError): boolean {
  return error.action === "retry";
}
