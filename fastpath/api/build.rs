//! Compiles `src/plane.proto` with protox, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=src/plane.proto");
    let descriptors = protox::compile(["src/plane.proto"], ["src"])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
