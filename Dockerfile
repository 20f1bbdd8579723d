# docker build -t facegan . && docker run --rm -v "$PWD:/work" facegan train --max-minutes=10
# TORCH=cpu leaves CUDA out (1.5 GB in place of 6); on machines with GPUs leave it empty.
FROM python:3.12-slim
ARG TORCH=
RUN pip install --no-cache-dir uv
COPY requirements.txt /toolkit/
RUN if [ -n "$TORCH" ]; then \
        uv pip install --system --torch-backend="$TORCH" -r /toolkit/requirements.txt; \
    else \
        pip install --no-cache-dir -r /toolkit/requirements.txt; \
    fi
COPY . /toolkit
# what a command writes goes to the folder it is called in
WORKDIR /work
ENTRYPOINT ["python", "/toolkit/main.py"]
