import type { ChannelCredentials, ChannelOptions } from "@grpc/grpc-js";
import { type CallSettings, READ_SECONDS, type UnaryCall, unary } from "./calls.js";
import { Connections, credentialsOf, type Tls } from "./connections.js";
import { Credential, type Token } from "./credential.js";
import type { GatewayError } from "./errors.js";
import {
  CancelJobRequest,
  type ContentFormat,
  type DeepPartial,
  GetJobRequest,
  type Job,
  JobServiceService,
  SendJobRequest,
  WaitJobRequest,
} from "./gen/jobgateway/v1/job_service.js";
import { checkUid, duration, encode } from "./requests.js";
import { VERSION } from "./version.js";
import { type StreamSettings, Watch, type WatchSettings } from "./watch.js";
import { type WatchAllEvent, watchAll } from "./watch-all.js";

// The gateway gives up a submission after 120 silent seconds.
const SEND_SECONDS = 150;
/** Of a `WaitJob` without a timeout. */
const WAIT_SECONDS = 40;

const {
  sendJob: SEND_JOB,
  getJob: GET_JOB,
  cancelJob: CANCEL_JOB,
  waitJob: WAIT_JOB,
} = JobServiceService;

/** Options of a client. */
export interface ClientOptions {
  token?: Token | undefined;
  /** TLS; without it, the connection is plaintext. */
  tls?: Tls | undefined;
  /** Channel credentials of grpc-js, instead of `tls`. */
  credentials?: ChannelCredentials | undefined;
  /** A gRPC service config as JSON (docs/clients/index.md). */
  serviceConfig?: string | undefined;
  /** Further options of grpc-js, which replace those of the client. */
  channelOptions?: ChannelOptions | undefined;
}

/** Options of a call that returns the job. */
export interface ReadSettings extends CallSettings {
  contentFormat?: ContentFormat | undefined;
}

/** Options of `wait`. */
export interface WaitSettings extends ReadSettings {
  /** The longest wait in total. Without it, `wait` continues until the job is done. */
  timeoutSeconds?: number | undefined;
}

/**
 * A client of a gateway. Its calls share one connection. A broken one is replaced once for all of them, and closed after its
 * last call. Each failed call throws a `GatewayError`, or the reason of its `signal`.
 */
export class Client {
  readonly #connections: Connections;
  readonly #credential: Credential;

  /** Connects to `target`, such as `127.0.0.1:50051`, at the first call. */
  constructor(
    target: string,
    { token, tls, credentials, serviceConfig, channelOptions }: ClientOptions = {},
  ) {
    this.#credential = new Credential(token);
    this.#connections = new Connections(target, credentials ?? credentialsOf(tls), {
      ...(serviceConfig === undefined ? {} : { "grpc.service_config": serviceConfig }),
      "grpc.primary_user_agent": `jobgateway-typescript/${VERSION}`,
      "grpc.keepalive_time_ms": 20_000,
      "grpc.keepalive_timeout_ms": 10_000,
      // Without it, a new client would share the connection of the old one.
      "grpc.use_local_subchannel_pool": 1,
      // grpc-js lets a closed connection that waits for its backoff connect once more, and drops it after ten seconds.
      "grpc.initial_reconnect_backoff_ms": 100,
      ...channelOptions,
    });
  }

  /**
   * Sends a job. The request is sent again if the gateway guarantees that no job was created, or if it has a `requestId`,
   * which makes that safe.
   */
  async send(request: DeepPartial<SendJobRequest>, settings: CallSettings = {}): Promise<Job> {
    const encoded = encode(SEND_JOB, () => SendJobRequest.fromPartial(request));
    const { requestId = "" } = request;
    return this.#call(
      {
        method: SEND_JOB,
        attempt: () => ({ request: encoded, deadlineSeconds: SEND_SECONDS }),
        mayRetry: (error) => error.maySendAgain({ requestId }),
      },
      settings,
    );
  }

  /** Reads a job once. */
  async get(uid: string, { contentFormat, ...settings }: ReadSettings = {}): Promise<Job> {
    checkUid(uid);
    const request = encode(GET_JOB, () => GetJobRequest.fromPartial({ uid, contentFormat }));
    return this.#read(GET_JOB, uid, request, settings);
  }

  /** Asks to cancel a job, and returns its state. The job may continue for a while. */
  async cancel(uid: string, settings: CallSettings = {}): Promise<Job> {
    checkUid(uid);
    const request = encode(CANCEL_JOB, () => CancelJobRequest.fromPartial({ uid }));
    return this.#read(CANCEL_JOB, uid, request, settings);
  }

  /**
   * Waits until a job is done, without a stream. Like a watch, the call is repeated as long as no gateway responds, with the
   * rest of the time. After `timeoutSeconds`, it returns the job, which may not be done. If it has no state then, it throws
   * `DEADLINE_EXCEEDED`, with the last failure as the `cause`.
   */
  async wait(
    uid: string,
    { timeoutSeconds, contentFormat, ...settings }: WaitSettings = {},
  ): Promise<Job> {
    checkUid(uid);
    const attempt = (spentSeconds: number) => {
      // A negative timeout stays as it is: the gateway rejects it.
      const seconds =
        timeoutSeconds === undefined
          ? undefined
          : Math.max(timeoutSeconds - spentSeconds, Math.min(timeoutSeconds, 0));
      const timeout = seconds === undefined ? undefined : duration("timeoutSeconds", seconds);
      return {
        request: encode(WAIT_JOB, () =>
          WaitJobRequest.fromPartial({ uid, contentFormat, timeout }),
        ),
        deadlineSeconds: (seconds ?? WAIT_SECONDS) + READ_SECONDS,
      };
    };
    const waitSeconds = timeoutSeconds ?? Number.POSITIVE_INFINITY;
    const call = { method: WAIT_JOB, attempt, uid, mayRetry, waitSeconds };
    for (;;) {
      const job = await this.#call(call, settings);
      if (job.done || timeoutSeconds !== undefined) return job;
    }
  }

  /**
   * Sends a job and watches it in one call. Before the job is known, it is sent again under the conditions of `send`. The
   * client resumes after a lost connection, so it does not have `cancel_on_disconnect`, which would cancel the job then.
   */
  run(request: DeepPartial<SendJobRequest>, settings: WatchSettings = {}): Watch {
    return new Watch(this.#connections, this.#credential, { send: request }, settings);
  }

  /**
   * Watches a job until it ends, from the place of the `resumeToken` of an earlier watch if there is one. Without a gateway,
   * it continues until its `signal`; `onRetry` gets the reason.
   */
  watch(
    uid: string,
    { resumeToken = "", ...settings }: WatchSettings & { resumeToken?: string | undefined } = {},
  ): Watch {
    return new Watch(this.#connections, this.#credential, { uid, resumeToken }, settings);
  }

  /** Watches many jobs on one stream, until each has ended or its watch has failed permanently. */
  watchAll(
    uids: Iterable<string>,
    settings: StreamSettings = {},
  ): AsyncIterableIterator<WatchAllEvent, void, undefined> {
    return watchAll(this.#connections, this.#credential, uids, settings);
  }

  /** Ends all calls and their waits with an error, and closes the connections. */
  close(): void {
    this.#connections.close();
  }

  #read(
    method: UnaryCall["method"],
    uid: string,
    request: Buffer,
    settings: CallSettings,
  ): Promise<Job> {
    const attempt = () => ({ request, deadlineSeconds: READ_SECONDS });
    return this.#call({ method, attempt, uid, mayRetry }, settings);
  }

  #call(call: UnaryCall, settings: CallSettings): Promise<Job> {
    return unary(this.#connections, this.#credential, call, settings);
  }
}

function mayRetry(error: GatewayError): boolean {
  return error.action === "retry";
}
