// The attempts of one call.

#ifndef JOBGATEWAY_SRC_ATTEMPTS_H_
#define JOBGATEWAY_SRC_ATTEMPTS_H_

#include <jobgateway/options.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "connection.h"

namespace jobgateway::internal {

// How a call of a watch ended.
struct EndedCall {
  Error error;  // its code may be OK
  std::shared_ptr<Connection::Stub> used;
  std::string token;
  bool replayed;  // it ended with OK, and repeated an earlier submission
};

// What the attempts of one call share, and the steps between them.
class Attempts {
 public:
  Attempts(std::shared_ptr<Connection> connection, CallOptions options)
      : connection_(std::move(connection)), options_(std::move(options)) {
    if (options_.timeout) {
      end_ = std::chrono::steady_clock::now() + *options_.timeout;
    }
  }

  const std::shared_ptr<Connection>& connection() const { return connection_; }
  const CallOptions& options() const { return options_; }

  // Returns the rest of the timeout, at most `limit`.
  std::chrono::nanoseconds Cap(std::chrono::nanoseconds limit) const {
    return std::min<std::chrono::nanoseconds>(
        limit, end_ - std::chrono::steady_clock::now());
  }

  // Throws if the client is closed, or the timeout has passed.
  void Check() const {
    connection_->CheckOpen();
    if (std::chrono::steady_clock::now() >= end_) {
      throw Error(grpc::StatusCode::DEADLINE_EXCEEDED,
                  "the timeout of the call has passed");
    }
  }

  // Calls `step` until it throws, and throws the same from then on: a failed
  // watch must not look as if its jobs had ended.
  template <typename Step>
  bool Guard(Step step) {
    if (failure_) std::rethrow_exception(failure_);
    try {
      return step();
    } catch (...) {
      failure_ = std::current_exception();
      throw;
    }
  }

  // Prepares the next call of a watch, or throws the error if it is final.
  // `decide` returns the next call, and takes whether there is a fresh token.
  template <typename Decide>
  void Resume(const EndedCall& last, bool wants_token, Decide decide) const {
    Check();
    const bool renewed = wants_token && connection_->Renew(last.token);
    const std::optional<Retry> next = decide(renewed);
    if (!next) throw last.error;
    Prepare(*next, last.used);
  }

  // Prepares the next attempt, and waits for it. `used`: the connection of the
  // last one.
  void Prepare(const Retry& retry,
               const std::shared_ptr<Connection::Stub>& used) const {
    if (options_.on_retry) options_.on_retry(retry);
    connection_->Sleep(Cap(retry.wait));
    Check();
    if (retry.new_connection) connection_->Reconnect(used);
  }

 private:
  const std::shared_ptr<Connection> connection_;
  const CallOptions options_;
  std::chrono::steady_clock::time_point end_ =
      std::chrono::steady_clock::time_point::max();
  std::exception_ptr failure_;
};

}  // namespace jobgateway::internal

#endif  // JOBGATEWAY_SRC_ATTEMPTS_H_
