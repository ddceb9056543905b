// The result of a job.

#ifndef JOBGATEWAY_SRC_RESULT_H_
#define JOBGATEWAY_SRC_RESULT_H_

#include <jobgateway/error.h>
#include <jobgateway/v1/job_service.pb.h>

#include <string>

namespace jobgateway::internal {

// Returns whether the bytes of the result of a done job, in `chunks` or in the
// job itself, match its SHA-256. A Struct has no hash. `complete`: a result
// that has not arrived is damaged, too.
bool IsIntact(const v1::Job& job, const std::string& chunks, bool complete);

// Returns the error of a job whose result is incomplete or damaged.
Error DamagedResult(const v1::Job& job);

// The bytes of a result that arrives in chunks, and the check of every result.
class Result {
 public:
  // `format` is that of the request. `always_chunks`: a large result arrives in
  // chunks in every format.
  Result(v1::ContentFormat format, bool always_chunks);

  // Takes an event of the job. Returns false if it is the end of the job, and
  // the result is incomplete or does not match its SHA-256.
  bool Take(const v1::JobEvent& event);

  // Returns the chunks so far, put together; empty if none have arrived.
  const std::string& chunks() const { return chunks_; }

 private:
  bool complete_;
  std::string chunks_;
};

}  // namespace jobgateway::internal

#endif  // JOBGATEWAY_SRC_RESULT_H_
