//! Point-in-time recovery.
