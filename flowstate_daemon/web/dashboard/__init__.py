"""The operator's pages: server-rendered, without a build step, closed to everybody who has not logged in."""
