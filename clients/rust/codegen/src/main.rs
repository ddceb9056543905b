//! Writes the types of the contract to `gen/`, so that a user of the crate needs no generator.

use std::error::Error;
use std::fs::create_dir_all;

fn main() -> Result<(), Box<dyn Error>> {
    // protox is a protoc in Rust, so that nothing else must be installed.
    let files = protox::compile(["jobgateway/v1/job_service.proto"], ["../../proto"])?;
    create_dir_all("gen")?;
    tonic_prost_build::configure()
        .build_server(false)
        .out_dir("gen")
        .compile_fds(files)?;
    Ok(())
}
