//! runtime
mod id;
mod ipc;
mod supervisor;

pub use id::WorkerId;
