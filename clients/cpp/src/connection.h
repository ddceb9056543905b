// The connection to the gateway that all calls of a client share, and their
// credential.

#ifndef JOBGATEWAY_SRC_CONNECTION_H_
#define JOBGATEWAY_SRC_CONNECTION_H_

#include <grpcpp/grpcpp.h>
#include <jobgateway/options.h>
#include <jobgateway/v1/job_service.grpc.pb.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>

#include "credential.h"

namespace jobgateway::internal {

// A call or a watch, with all its attempts, that another thread can close.
struct Handle {
  std::atomic<bool> closed = false;
  // The call in flight, or null. Guarded by the mutex of the connection.
  grpc::ClientContext* call = nullptr;
};

// The channel of new calls, and the token that they carry. A replaced channel
// closes after its last call. Thread-safe.
class Connection {
 public:
  using Stub = v1::JobService::Stub;

  // Connects at the first call. Throws std::invalid_argument if no call could
  // succeed: the target, the service config or the token is invalid.
  Connection(std::string target, Options options);

  // Replaces the channel for further calls, unless another call has replaced
  // `used` already.
  void Reconnect(const std::shared_ptr<Stub>& used);

  Credential& credential() { return credential_; }

  // Waits until the time has passed, or the client or the call is closed.
  void Sleep(std::chrono::nanoseconds wait, const Handle& handle);

  // Throws if the client or the call is closed.
  void CheckOpen(const Handle& handle);

  // Cancels all calls, and ends all waits.
  void Close();

  // Cancels one call, and ends its waits.
  void Close(Handle* handle);

 private:
  friend class Call;

  std::shared_ptr<Stub> Connect() const;
  void CheckOpenLocked(const Handle& handle) const;

  const std::string target_;
  const Options options_;

  std::mutex mutex_;
  std::condition_variable closing_;
  bool closed_ = false;
  std::shared_ptr<Stub> stub_;
  std::unordered_set<grpc::ClientContext*> calls_;

  Credential credential_;
};

// One call on the current connection.
class Call {
 public:
  // Throws if the client or `handle` is closed. `uid`: the job that the call is
  // about; 0 if it is not about one.
  Call(std::shared_ptr<Connection> connection, std::shared_ptr<Handle> handle,
       std::string token, std::int64_t uid);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  grpc::ClientContext* context() { return &context_; }
  const std::shared_ptr<Connection::Stub>& stub() const { return stub_; }
  const std::string& token() const { return token_; }

  // Returns whether the gateway repeated the response of an earlier submission.
  // Call it after the end of the call.
  bool replayed() const;

 private:
  const std::shared_ptr<Connection> connection_;
  const std::shared_ptr<Handle> handle_;
  const std::string token_;
  std::shared_ptr<Connection::Stub> stub_;
  grpc::ClientContext context_;
};

}  // namespace jobgateway::internal

#endif  // JOBGATEWAY_SRC_CONNECTION_H_
