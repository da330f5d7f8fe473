//! Builds the executor and the session from the environment.

use std::sync::Arc;
use torsh_frontend::session::{self, Config};
use torsh_ir::interp::InterpExecutor;

fn flag(name: &str) -> Option<bool> {
    std::env::var(name).ok().map(|v| !matches!(v.as_str(), "" | "0" | "false" | "off"))
}

/// Installs the session.
pub fn init() {
    let config = Config { interpret: true, fusion: flag("TORSH_FUSION").unwrap_or(true), ..Config::default() };
    session::init(Arc::new(InterpExecutor::new()), config);
}
