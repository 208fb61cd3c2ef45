//! The ways in which a database server is away while it is there, and how it comes back.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use super::fixture::connect;
use super::fixture_with_server::{FixtureWithServer, ROLE};
use super::until;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// Killed -9; it has to recover.
    Killed,
    /// Stopped by an administrator.
    Stopped,
    /// All its processes are stopped where they are.
    Frozen,
    /// It takes no writes.
    ReadOnly,
    /// Others have all its connections.
    NoConnections,
    /// No room where the points are.
    DiskFull,
    /// The worker's role may not log in.
    RoleLocked,
}

/// An outage that goes on.
pub struct Ongoing {
    outage: Outage,
    others: Vec<Client>,
}

impl Outage {
    pub async fn begin(self, ground: &mut FixtureWithServer) -> Ongoing {
        let mut others = Vec::new();
        match self {
            Self::Killed => ground.server.kill_9(),
            Self::Stopped => ground.server.stop_fast(),
            Self::Frozen => ground.server.freeze(),
            Self::ReadOnly => read_only(ground, true).await,
            Self::NoConnections => others = take_all_connections(ground).await,
            Self::DiskFull => ground.server.fill_small_disk().await,
            Self::RoleLocked => {
                let admin = connect(&ground.server.url()).await;
                lock_role(&admin).await;
            }
        }
        Ongoing { outage: self, others }
    }
}

impl Ongoing {
    /// Heals what was done, and does not wait for what comes of it.
    pub async fn end(self, ground: &mut FixtureWithServer) {
        match self.outage {
            Outage::Killed | Outage::Stopped => ground.server.launch(),
            Outage::Frozen => ground.server.thaw(),
            Outage::ReadOnly => read_only(ground, false).await,
            Outage::NoConnections => drop(self.others),
            Outage::DiskFull => ground.server.free_small_disk().await,
            Outage::RoleLocked => {
                let admin = connect(&ground.server.url()).await;
                admin.batch_execute(&format!("alter role {ROLE} login")).await.unwrap();
            }
        }
    }
}

async fn read_only(ground: &FixtureWithServer, on: bool) {
    let admin = connect(&ground.server.url()).await;
    let sql = format!("alter system set default_transaction_read_only = {on}");
    admin.batch_execute(&sql).await.unwrap();
    admin.batch_execute("select pg_reload_conf()").await.unwrap();
}

/// Ends the worker's sessions; the answer is their number.
async fn end_sessions(admin: &Client) -> i64 {
    let sql = "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = $1";
    admin.query_one(sql, &[&ROLE]).await.unwrap().get(0)
}

/// Returns `true` if as many sessions are there as the server allows. One that is still being authenticated is none.
async fn are_all_taken(admin: &Client) -> bool {
    let sql = "select count(*) >= current_setting('max_connections')::int
        - current_setting('superuser_reserved_connections')::int - current_setting('reserved_connections')::int
        from pg_stat_activity where backend_type = 'client backend'";
    admin.query_one(sql, &[]).await.unwrap().get(0)
}

/// Takes every connection that there is, and then lets the workers ask for theirs. The administrator's are reserved.
async fn take_all_connections(ground: &FixtureWithServer) -> Vec<Client> {
    let admin = connect(&ground.server.url()).await;
    admin.batch_execute("drop role if exists other; create role other login").await.unwrap();
    let url = format!("postgresql://other@{}/{}", ground.server.address(), ground.fixture.name);
    let mut others = Vec::new();
    // A worker would be as quick to take what it has just lost.
    lock_role(&admin).await;
    loop {
        match tokio_postgres::connect(&url, NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(async move { drop(connection.await) });
                others.push(client);
            }
            Err(error) => {
                assert_eq!(error.code(), Some(&SqlState::TOO_MANY_CONNECTIONS), "{error}");
                // A worker that is refused has a connection, too, until it gets the refusal.
                if end_sessions(&admin).await == 0 && are_all_taken(&admin).await {
                    break;
                }
            }
        }
    }
    admin.batch_execute(&format!("alter role {ROLE} login")).await.unwrap();
    // Its connection counts: were it closed, a worker would get that one.
    others.push(admin);
    others
}

async fn lock_role(admin: &Client) {
    admin.batch_execute(&format!("alter role {ROLE} nologin")).await.unwrap();
    until(30, "the role has no sessions", async || end_sessions(admin).await == 0).await;
}

/// Waits until the server takes a write of a new connection in the workers' role, asking every 20 ms. The answer is a
/// connection, and the server's time then.
pub async fn until_writable(ground: &FixtureWithServer) -> (Client, std::time::SystemTime) {
    let url = ground.url();
    let attempt = async || -> Result<(Client, std::time::SystemTime), tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
        tokio::spawn(async move { drop(connection.await) });
        // More than a page: a full disk has no room for it.
        let sql = "insert into sign_of_life values (repeat('x', 100000)) returning clock_timestamp()";
        let at = client.query_one(sql, &[]).await?.get(0);
        Ok((client, at))
    };
    let asking = async {
        loop {
            if let Ok(Ok(writable)) = tokio::time::timeout(Duration::from_secs(1), attempt()).await {
                return writable;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asking).await.expect("the server takes writes within 60 s")
}
