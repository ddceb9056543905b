// A client of the Job Gateway. It sends jobs, watches them over broken
// connections until they end, and verifies their results.

#ifndef JOBGATEWAY_CLIENT_H_
#define JOBGATEWAY_CLIENT_H_

#include <jobgateway/error.h>
#include <jobgateway/options.h>
#include <jobgateway/v1/job_service.pb.h>
#include <jobgateway/watch.h>
#include <jobgateway/watch_all.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace jobgateway {

namespace internal {
class Connection;
}

// A client of one gateway. Thread-safe: its calls share one connection, which
// is replaced once for all of them if it breaks, and closed after its last
// call. Failed calls throw an Error.
class Client {
 public:
  // Connects at the first call. `target` is an address such as 127.0.0.1:50051,
  // or any name that gRPC resolves. Throws std::invalid_argument if no call
  // could succeed: the target, the token or the service config is invalid.
  explicit Client(std::string target, Options options = {});

  // Sends a job. Sends the request again if the gateway guarantees that no job
  // was created, or if it has a request_id, which makes that safe. An error
  // with the reason SUBMIT_OUTCOME_UNKNOWN is final: the caller decides.
  v1::Job Send(const v1::SendJobRequest& request,
               const CallOptions& options = {});

  // Sends a job and watches it in one call, which is resumed like a Watch().
  // Before the job is known, the request is sent again like that of a Send().
  // Rejects cancel_on_disconnect, because a broken stream would cancel the job
  // that the next one resumes.
  jobgateway::Watch Run(const v1::SendJobRequest& request,
                        const CallOptions& options = {});
  jobgateway::Watch Run(const v1::RunJobRequest& request,
                        const CallOptions& options = {});

  // Watches a job until it ends, and resumes broken streams.
  jobgateway::Watch Watch(std::int64_t uid, const CallOptions& options = {});
  jobgateway::Watch Watch(const v1::WatchJobRequest& request,
                          const CallOptions& options = {});

  // Watches many jobs on one stream until each has ended or its watch has
  // failed. Each uid is watched once, and the heartbeat_interval of the first
  // request applies to all.
  jobgateway::WatchAll WatchAll(
      const std::vector<v1::WatchJobRequest>& requests,
      const CallOptions& options = {});

  // Waits until a job is done, without a stream, over as many calls as needed.
  // After CallOptions::timeout, or after the timeout of the request, returns
  // the job although it is not done. The latter counts for all attempts; the
  // last login and the last response may take 30 seconds more. If no state
  // could be read, throws an Error with the code DEADLINE_EXCEEDED and the last
  // error as its cause, immediately if the next attempt would come too late.
  v1::Job Wait(const v1::WaitJobRequest& request,
               const CallOptions& options = {});
  v1::Job Wait(std::int64_t uid, const CallOptions& options = {});

  // Reads a job once.
  v1::Job Get(const v1::GetJobRequest& request,
              const CallOptions& options = {});
  v1::Job Get(std::int64_t uid, const CallOptions& options = {});

  // Asks to cancel a job, and returns its state. The job may continue for a
  // while.
  v1::Job Cancel(std::int64_t uid, const CallOptions& options = {});

  // Ends all calls and watches, on any thread: they throw an Error with the
  // code CANCELLED. The jobs continue.
  void Close();

 private:
  const std::shared_ptr<internal::Connection> connection_;
};

// Returns a request with a new, random request_id.
v1::SendJobRequest NewRequest(const std::string& workspace_id,
                              std::int64_t entity_id,
                              const std::string& method_name);

}  // namespace jobgateway

#endif  // JOBGATEWAY_CLIENT_H_
