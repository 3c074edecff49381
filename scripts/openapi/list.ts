// Lists the jobs of a daemon with a client that openapi-typescript made of its description: node out/list.js URL
import createClient from "openapi-fetch";
import type { components, paths } from "./made/schema.js";

const client = createClient<paths>({ baseUrl: process.argv[2] ?? "http://127.0.0.1:8081" });

const list = await client.GET("/api/v1/jobs", { params: { query: { limit: 500 } } });
if (list.error !== undefined) throw new Error(list.error.detail);
const jobs: components["schemas"]["Report"][] = list.data;
for (const job of jobs) {
  const speed: number | null = job.bytes_per_second;
  console.log(`${job.job_id} ${job.status} ${job.overall_percent}% ${speed ?? "-"}`);
}

// Only what has to be in a request is asked for, and an error has a code.
const made = await client.POST("/api/v1/jobs", { body: { vm: "/DC0/vm/web" } });
if (made.error === undefined) throw new Error(`job ${made.data.job_id} was accepted without a vCenter`);
const code: string = made.error.code;
console.log(`refused: ${code}`);
