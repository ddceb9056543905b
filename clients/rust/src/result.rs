//! The result of a job.

use sha2::{Digest, Sha256};
use tonic::Code;

use crate::failure::Failure;
use crate::pb::{ContentChunk, Job, job};

/// The bytes of a result that arrives in chunks.
#[derive(Debug, Default)]
pub(crate) struct ChunkedResult {
    pub data: Vec<u8>,
}

impl ChunkedResult {
    /// Adds a chunk. It first cuts the result to the chunk's offset, because chunks may start again at 0 after a resume.
    pub fn take(&mut self, chunk: &ContentChunk) {
        self.data.truncate(chunk.offset as usize);
        self.data.extend_from_slice(&chunk.data);
    }

    /// Returns a failure if the bytes of the result of a done job, in chunks or in the job itself, are not those that the
    /// gateway announced. A `Struct` has no hash. `complete`: a result that has not arrived is a failure, too.
    pub fn verify(&self, job: &Job, complete: bool) -> Result<(), Failure> {
        let data = match &job.result {
            Some(job::Result::Content(_)) => return Ok(()),
            Some(job::Result::ContentJson(data)) => data,
            None => &self.data,
        };
        if job.content_size == 0
            || data.is_empty() && !complete
            || hex::encode(Sha256::digest(data)) == job.content_sha256
        {
            return Ok(());
        }
        let message = format!(
            "the result of job {} was damaged on its way: its SHA-256 is wrong",
            job.uid
        );
        Err(Failure::new(Code::DataLoss, &message))
    }
}
