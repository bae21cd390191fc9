# Stands in for postgres:16-alpine: Debian's PostgreSQL, made and started as the original's entry point does it.
FROM localhost/stand-in/debian
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql && ln -s /usr/lib/postgresql/*/bin /opt/pg
ENV PATH=/opt/pg:/usr/sbin:/usr/bin:/sbin:/bin PGDATA=/var/lib/postgresql/data
COPY postgres.sh /entry
STOPSIGNAL SIGINT
EXPOSE 5432
ENTRYPOINT ["/bin/sh", "/entry"]
