// The token of a client's calls, and the logins that renew it.

#ifndef JOBGATEWAY_SRC_CREDENTIAL_H_
#define JOBGATEWAY_SRC_CREDENTIAL_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

namespace jobgateway::internal {

// A token. A login runs on its own thread, once for all calls that wait for it,
// and each of them waits no longer than its timeout. If the login throws, the
// call that began it throws the same, and the others begin another one.
// Thread-safe.
class Credential {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // `login` may be empty. Throws std::invalid_argument if no header can carry
  // the token.
  Credential(std::string token, std::function<std::string()> login);

  // Waits for the login that runs.
  ~Credential() = default;

  // Returns the token, after the first login; nothing if the client or the call
  // was closed, or `end` has passed before. `closed`: whether the call is.
  std::optional<std::string> Token(Time end, const std::atomic<bool>& closed);

  // Logs in, unless another call has replaced the token `used` already. Returns
  // whether there is another token; nothing as above.
  std::optional<bool> Renew(const std::string& used, Time end,
                            const std::atomic<bool>& closed);

  // Ends all waits.
  void Close();

  // Ends the waits whose call is closed.
  void Wake();

 private:
  struct Login;

  // Begins a login, or joins the one that runs. Returns null as above.
  std::shared_ptr<const Login> LogIn(std::unique_lock<std::mutex>* lock,
                                     Time end, const std::atomic<bool>& closed);
  void Run(Login* login);

  const std::function<std::string()> login_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool closed_ = false;
  bool known_;
  std::string token_;
  std::shared_ptr<Login> running_;
  std::future<void> task_;  // the last member: its destructor waits
};

}  // namespace jobgateway::internal

#endif  // JOBGATEWAY_SRC_CREDENTIAL_H_
