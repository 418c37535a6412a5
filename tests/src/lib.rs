//! Tests of the whole product. `system/` drives the programs as an operator does and asks real packets what happened; `cases/` states,
//! file by file, which packets must pass; `tidy/` holds the house rules.
