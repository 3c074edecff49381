#!/usr/bin/env node
// Follows all jobs of a vmferry daemon over its event stream. Node 18 or newer, no packages.
//
//     VMFERRY_SERVER=http://127.0.0.1:8081 node follow_sse.js
'use strict'
const fs = require('fs')

const server = process.env.VMFERRY_SERVER || 'http://127.0.0.1:8081'
const tokenFile = process.env.VMFERRY_TOKEN_FILE
const silence = 10_000 // ms; the daemon sends at least the time every 2 s

const known = new Map() // the newest report of each job
let last = '' // the id of the last event that was taken
let stale = true

const stays = (report) => report.phases.map((p) => `${p.name} ${p.round} ${p.started_at}`)

// Takes a report, or that a job was deleted. What is not newer than what is known says nothing.
function take(now) {
  const old = known.get(now.job_id)
  if (old && (now.epoch - old.epoch || now.seq - old.seq) <= 0) return
  if (now.deleted) return forget(now.job_id)
  const told = old ? stays(old) : []
  for (const stay of stays(now)) { // also those that began and ended while this program did not look
    if (!told.includes(stay)) console.log(now.job_id, 'entered', ...stay.split(' ').slice(0, 2))
  }
  known.set(now.job_id, now)
  console.log(`${now.job_id} ${now.status} ${now.phase} ${now.round} ${now.bytes_transferred} ${now.overall_percent}`)
}

// Takes the newest report of every job. A job that is missing was deleted.
function takeAll(reports) {
  reports.forEach(take)
  const there = new Set(reports.map((r) => r.job_id))
  for (const id of known.keys()) if (!there.has(id)) forget(id)
}

function forget(id) {
  if (known.delete(id)) console.log(id, 'deleted')
}

// Says when all that is shown becomes old, and when it is right again.
function mark(isStale, why) {
  if (isStale !== stale) console.error(isStale ? `stale: ${why}` : 'live')
  stale = isStale
}

// Follows one connection until it ends.
async function follow() {
  const headers = { Accept: 'text/event-stream' }
  if (last) headers['Last-Event-ID'] = last
  if (tokenFile) headers.Authorization = 'Bearer ' + fs.readFileSync(tokenFile, 'utf8').trim()
  const abort = new AbortController()
  const quiet = setTimeout(() => abort.abort(), silence)
  try {
    const answer = await fetch(server + '/api/v1/events', { headers, signal: abort.signal })
    if ([400, 401, 403, 404].includes(answer.status)) { // asking again would change nothing
      console.error(answer.status, await answer.text())
      process.exit(1)
    }
    if (!answer.ok) throw new Error(`the daemon answers ${answer.status}`)
    const decoder = new TextDecoder()
    let rest = ''
    for await (const chunk of answer.body) {
      quiet.refresh()
      const events = (rest + decoder.decode(chunk, { stream: true })).split('\n\n')
      rest = events.pop()
      events.forEach(event)
    }
    throw new Error('the daemon has closed the stream')
  } finally {
    clearTimeout(quiet)
  }
}

function event(text) {
  const fields = {}
  for (const line of text.split('\n')) { // our events have one line of data
    const [, field, value] = line.match(/^([^:]*):? ?(.*)$/)
    fields[field] = value
  }
  if (fields.event === 'snapshot') takeAll(JSON.parse(fields.data).jobs)
  if (fields.event === 'progress' || fields.event === 'deleted') take(JSON.parse(fields.data))
  if (fields.event) mark(false)
  last = fields.id || last
}

async function main() {
  for (;;) {
    await follow().catch((err) => mark(true, err.cause || err))
    await new Promise((again) => setTimeout(again, 1000))
  }
}

main()
