package jobs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"google.golang.org/grpc/codes"

	pb "jobclient/gen/jobgateway/v1"
)

// Result holds the bytes of a result that arrives in chunks.
type Result []byte

// take adds a chunk. It first cuts the result to the chunk's offset, because chunks may start again at 0 after a resume.
func (r *Result) take(chunk *pb.ContentChunk) {
	*r = append((*r)[:min(chunk.GetOffset(), int64(len(*r)))], chunk.GetData()...)
}

// verify returns an error if the bytes of the result of a done job, in chunks or in the job itself, are not those that
// the gateway announced. A Struct has no hash. complete: a result that has not arrived is an error, too.
func (r Result) verify(job *pb.Job, complete bool) *Error {
	data := job.GetContentJson()
	if job.GetContentOmitted() {
		data = r
	}
	if job.GetContentSize() == 0 || job.GetContent() != nil || len(data) == 0 && !complete {
		return nil
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != job.GetContentSha256() {
		message := fmt.Sprintf("the result of job %d was damaged on its way: its SHA-256 is wrong", job.GetUid())
		return &Error{Code: codes.DataLoss, Message: message}
	}
	return nil
}
