//! The POP3 view of a selected mailbox.

mod unique_id;
mod update;

pub use unique_id::UniqueIdFormat;
pub use update::DeletePolicy;
