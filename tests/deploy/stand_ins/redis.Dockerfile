# Stands in for redis:7-alpine: Debian's Redis 7, which is the same program.
FROM localhost/stand-in/debian
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-server && mkdir -p /data
WORKDIR /data
EXPOSE 6379
# The original's entry point switches the protected mode off as well.
ENTRYPOINT ["redis-server", "--protected-mode", "no"]
