#!/usr/bin/env node
// Follows all jobs that vmferry writes to Redis. Node 18 or newer, with node-redis 4 or 5 (npm install redis, or
// Debian's node-redis).
//
//     REDIS_URL=redis://127.0.0.1:6379/0 node follow_redis.js
'use strict'
const { createClient } = require('redis')

const url = process.env.REDIS_URL || 'redis://127.0.0.1:6379/0'
const lists = ['vmferry:v1:jobs:active', 'vmferry:v1:jobs:recent']

const known = new Map() // the newest report of each job, or that it was deleted: what comes late does not bring it back
let stale = true

const stays = (report) => report.phases.map((p) => `${p.name} ${p.round} ${p.started_at}`)

// Takes a report, or that a job was deleted. What is not newer than what is known says nothing.
function take(now) {
  const old = known.get(now.job_id)
  if (old && (now.epoch - old.epoch || now.seq - old.seq) <= 0) return
  if (now.deleted) return forget(now.job_id, now)
  const told = old ? stays(old) : []
  for (const stay of stays(now)) { // also those that began and ended while this program did not look
    if (!told.includes(stay)) console.log(now.job_id, 'entered', ...stay.split(' ').slice(0, 2))
  }
  known.set(now.job_id, now)
  console.log(`${now.job_id} ${now.status} ${now.phase} ${now.round} ${now.bytes_transferred} ${now.overall_percent}`)
}

function forget(id, { epoch, seq }) {
  if (there().includes(id)) console.log(id, 'deleted')
  known.set(id, { deleted: true, epoch, seq, phases: [] })
}

const there = () => [...known.keys()].filter((id) => !known.get(id).deleted)

// Says when all that is shown becomes old, and when it is right again.
function mark(isStale, why) {
  if (isStale !== stale) console.error(isStale ? `stale: ${why}` : 'live')
  stale = isStale
}

// Takes the newest report of every job, and of the jobs that are known also what was missed.
async function look(store) {
  const whole = await store.exists('vmferry:v1:daemon') // first: the lists are at least as new
  const ids = await store.zUnion(lists) // at one moment, for a job may move between them
  const all = new Set([...ids, ...there()]) // the stream of a deleted job says so
  await Promise.all([...all].map(async (id) => { // node-redis sends them in one pipeline
    const old = known.get(id)
    const [missed, newest] = await Promise.all([
      store.xRange(`vmferry:v1:{${id}}:events`, old ? `(${old.epoch}-${old.seq}` : '+', '+'),
      store.hGet(`vmferry:v1:{${id}}:snap`, 'json'),
    ])
    for (const entry of missed) take(JSON.parse(entry.message.data))
    if (newest) take(JSON.parse(newest))
  }))
  if (whole) { // else Redis may have come back empty, and what is missing may only not be there yet
    for (const id of there()) if (!ids.includes(id)) forget(id, known.get(id))
  }
  mark(!whole, 'no daemon has written for 15 s, or Redis is being filled')
}

async function main() {
  const store = createClient({ url, disableOfflineQueue: true, socket: { reconnectStrategy: () => 1000 } })
  const channel = store.duplicate()
  let busy = Promise.resolve() // one after the other: what was missed is taken before what is new
  const next = (work) => { busy = busy.then(work).catch((err) => mark(true, err)) }
  for (const client of [store, channel]) client.on('error', (err) => mark(true, err))
  channel.on('ready', () => next(() => look(store))) // after each lost connection; it has subscribed again
  await Promise.all([store.connect(), channel.connect()])
  await channel.subscribe('vmferry:v1:events', (text) => next(() => take(JSON.parse(text))))
  next(() => look(store))
  setInterval(() => next(() => look(store)), 5000)
}

main()
