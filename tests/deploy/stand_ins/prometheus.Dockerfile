# Stands in for prom/prometheus: Debian's Prometheus 2, which reads the same configuration.
FROM localhost/stand-in/debian
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus wget && install -d -o nobody /prometheus
WORKDIR /prometheus
USER nobody
EXPOSE 9090
ENTRYPOINT ["prometheus"]
