// The options of a client and of its calls.

#ifndef JOBGATEWAY_OPTIONS_H_
#define JOBGATEWAY_OPTIONS_H_

#include <grpcpp/grpcpp.h>
#include <jobgateway/error.h>
#include <jobgateway/v1/job_service.pb.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace jobgateway {

// The options of a Client. Without any, it is a plaintext connection without a
// token.
struct Options {
  // A bearer token that never changes.
  std::string token{};
  // Returns a bearer token, instead of `token`. A client calls it before its
  // first call, and again whenever the gateway rejects the token, never twice
  // at the same time. It returns "" if there is no (other) one. An exception
  // ends the call that began the login. It runs on its own thread, and must not
  // use the client, whose destructor waits for it.
  std::function<std::string()> login{};
  // Null is plaintext; see TlsFromFiles().
  std::shared_ptr<grpc::ChannelCredentials> credentials{};
  // A gRPC service config as JSON (docs/clients/index.md); "" is none.
  std::string service_config{};
  // Further arguments, such as a receive limit. Those for keepalive replace
  // those of the client.
  grpc::ChannelArguments arguments{};
};

// Returns credentials for TLS from files in PEM. `ca_file` has the trusted
// authorities; "" means those of the system. Mutual TLS needs `cert_file` and
// `key_file`, the certificate of the client and its key; "" for both means
// none. Throws std::invalid_argument if a file cannot be used.
std::shared_ptr<grpc::ChannelCredentials> TlsFromFiles(
    const std::string& ca_file, const std::string& cert_file = "",
    const std::string& key_file = "");

// A further attempt after an error.
struct Retry {
  Error error;
  std::chrono::nanoseconds wait;
  bool new_connection;
  // The job that WatchAll watches again on the same stream; 0 if the stream
  // itself is resumed.
  std::int64_t uid = 0;
  // The number of jobs that have not ended.
  std::size_t jobs = 1;
};

// The options of one call. The functions may be empty, and run on the thread
// of the call. If one throws, its exception ends the call.
struct CallOptions {
  // Called with each state of a job in Run() and Watch().
  std::function<void(const v1::Job&)> on_progress{};
  // Called before the wait for each further attempt: of a unary call, of the
  // stream of a watch, and in WatchAll() also of the watch of one job.
  std::function<void(const Retry&)> on_retry{};
  // Called if Send() or Run() returned the job of an earlier submission with
  // the same request_id. A Run() learns it after the end of its job, before
  // Next() returns false.
  std::function<void()> on_replayed{};
  // Limits a call, or a whole watch with all its streams. The error after it
  // has the code DEADLINE_EXCEEDED and the last error as its cause. Without a
  // timeout, a watch or Wait() that reaches no gateway continues; on_retry()
  // tells why.
  std::optional<std::chrono::nanoseconds> timeout{};
};

}  // namespace jobgateway

#endif  // JOBGATEWAY_OPTIONS_H_
