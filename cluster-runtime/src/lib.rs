//! runtime
mod exit;
mod id;
mod ipc;
mod supervisor;

pub use exit::{Exit, ExitReason, ExitStatus};
pub use id::WorkerId;
