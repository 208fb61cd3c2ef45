//! Addresses of hosts with ports.

/// Returns `true` if the text is `host:port`, with an IPv6 address in brackets.
pub(super) fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let bare = |host: &str| !host.is_empty() && !host.contains([':', '[', ']', '/', ' ', '*', '@']);
    port.parse::<u16>().is_ok() && (bare(host) || text.parse::<std::net::SocketAddrV6>().is_ok())
}
