//! The sample mailbox behind `popgate demo`, in memory.

mod date;
pub mod mailbox;

pub use self::date::InternalDate;
