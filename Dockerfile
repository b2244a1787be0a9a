# One small image for the emulator and the load generator, without compiler, pip and root. vLLM has its own image.
# syntax=docker/dockerfile:1
ARG BASE=python:3.13.11-slim-trixie

FROM ${BASE} AS build
# requirements-distributed.lock also contains Locust.
ARG LOCK=requirements-server.lock
WORKDIR /src
COPY ${LOCK} ./requirements.lock
# --target is used instead of a virtual environment, whose python is a link that works only in this base image.
RUN python3 -m pip install --no-cache-dir --require-hashes --no-deps --target /opt/thinkload/lib -r requirements.lock \
 && rm -rf /opt/thinkload/lib/bin \
 && find /opt/thinkload/lib -name tests -type d -prune -exec rm -rf {} + \
 && python3 -m compileall -q /opt/thinkload/lib
COPY server /opt/thinkload/app/server
COPY loadgen /opt/thinkload/app/loadgen
RUN python3 -m compileall -q /opt/thinkload/app

FROM ${BASE}
LABEL org.opencontainers.image.title="thinkload" \
      org.opencontainers.image.licenses="Apache-2.0" \
      thinkload.emulator="true"
ENV PYTHONPATH=/opt/thinkload/app:/opt/thinkload/lib PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
COPY --from=build /opt/thinkload /opt/thinkload
# Remove pip from all places where a base image may contain it, because nothing may be installed into a running server.
RUN rm -rf /usr/local/bin/pip* /usr/bin/pip* /usr/lib/python3/dist-packages/pip /usr/local/lib/python3*/ensurepip \
    /usr/local/lib/python3*/site-packages/pip*
USER 65532:65532
WORKDIR /run/thinkload
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["python3", "-m", "server"]
CMD ["emulate", "tp1", "--model", "r1-distill-qwen-1.5b", "--host", "0.0.0.0"]
