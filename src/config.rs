//! temporary
use crate::limits::Limits;
use std::net::SocketAddr;
use std::path::PathBuf;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode { Open, Required }
#[derive(Debug, Clone)]
pub struct Config { pub bind: SocketAddr, pub shards: usize, pub auth: AuthMode, pub jwt_secret: Option<String>, pub data_dir: PathBuf, pub database_url: Option<String>, pub allowed_origins: Vec<String>, pub lease_ttl_ms: u64, pub self_protection_max_ms: u64, pub echo: bool, pub limits: Limits }
impl Config { pub fn temp() -> Config {
  let mut c = Config { bind: "127.0.0.1:8080".parse().unwrap(), shards: 2, auth: AuthMode::Open, jwt_secret: None, data_dir: "fanfare-data".into(), database_url: None, allowed_origins: vec![], lease_ttl_ms: 20000, self_protection_max_ms: 600000, echo: true, limits: Limits::default() };
  let a: Vec<String> = std::env::args().collect();
  for w in a.windows(2) { match w[0].as_str() { "--bind" => c.bind = w[1].parse().unwrap(), "--shards" => c.shards = w[1].parse().unwrap(), "--data-dir" => c.data_dir = w[1].clone().into(), "--client-messages-per-s-max" => c.limits.client_messages_per_s_max = w[1].parse().unwrap(), _ => {} } }
  c } }
