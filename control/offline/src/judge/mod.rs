//! The production judge.
mod packet;
