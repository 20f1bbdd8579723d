"use strict";
/* Draws faces on several cores: each worker has a generator of its own. */

class Studio {
  /** `engine` is the text of engine.js; `about` has program and weights, `kernels` are bytes. */
  constructor(engine, program, weights, kernels, count) {
    const loop = `
      let generator;
      onmessage = ({data}) => {
        if (data.program) generator = new Generator(data.program, data.weights, data.kernels);
        else postMessage({id: data.id, pixels: generator.draw(data.input)});
      };`;
    this.url = URL.createObjectURL(new Blob([engine, loop], {type: "text/javascript"}));
    this.waiting = [];  // what nobody draws yet
    this.drawing = new Map();  // by id
    this.next = 0;
    this.idle = Array.from({length: count}, () => {
      const worker = new Worker(this.url);
      worker.onmessage = ({data}) => this.drawn(worker, data);
      worker.onerror = (event) => { throw new Error(event.message); };
      worker.postMessage({program, weights, kernels});
      return worker;
    });
    this.count = count;
  }

  /** Pixels of noise and classes; what is `urgent` is drawn first. */
  draw(input, {urgent = false, group = ""} = {}) {
    return new Promise((resolve) => {
      const job = {id: this.next++, input, group, resolve};
      document.documentElement.dataset.busy = "1";
      if (urgent) this.waiting.unshift(job);
      else this.waiting.push(job);
      this.start();
    });
  }

  /** Forget what is waiting in a group; the promises of it stay open. */
  forget(group) {
    this.waiting = this.waiting.filter((job) => job.group !== group);
  }

  start() {
    while (this.idle.length && this.waiting.length) {
      const job = this.waiting.shift();
      this.drawing.set(job.id, job);
      this.idle.pop().postMessage({id: job.id, input: job.input});
    }
  }

  drawn(worker, {id, pixels}) {
    const job = this.drawing.get(id);
    this.drawing.delete(id);
    this.idle.push(worker);
    this.start();
    job.resolve(pixels);
    setTimeout(() => {  // when what was waiting for these pixels has shown them
      document.documentElement.dataset.busy = String(this.waiting.length + this.drawing.size);
    });
  }
}
