-- The tables of the FlowState application as far as the daemon may read them: quoted camelCase names, text ids,
-- timestamps without zone that hold UTC, no database default for "updatedAt". For the embedded database only:
-- in production the application makes and owns them.

CREATE TABLE IF NOT EXISTS users (
    id                text         PRIMARY KEY,
    email             text         NOT NULL,
    password          text         NOT NULL,
    "fullName"        text,
    "isEmailVerified" boolean      NOT NULL DEFAULT false,
    preferences       jsonb,
    "createdAt"       timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt"       timestamp(3) NOT NULL,
    "deletedAt"       timestamp(3)
);
CREATE UNIQUE INDEX IF NOT EXISTS users_email_key ON users (email);

CREATE TABLE IF NOT EXISTS projects (
    id          text             PRIMARY KEY,
    "userId"    text             NOT NULL REFERENCES users (id) ON UPDATE CASCADE ON DELETE CASCADE,
    name        text             NOT NULL,
    description text,
    color       text             NOT NULL DEFAULT '#14A800',
    deadline    timestamp(3),
    progress    double precision NOT NULL DEFAULT 0,
    "createdAt" timestamp(3)     NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" timestamp(3)     NOT NULL,
    "deletedAt" timestamp(3)
);

CREATE TABLE IF NOT EXISTS project_members (
    id          text         PRIMARY KEY,
    "projectId" text         NOT NULL REFERENCES projects (id) ON UPDATE CASCADE ON DELETE CASCADE,
    "userId"    text         NOT NULL REFERENCES users (id) ON UPDATE CASCADE ON DELETE CASCADE,
    role        text         NOT NULL DEFAULT 'member',
    "joinedAt"  timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE UNIQUE INDEX IF NOT EXISTS "project_members_projectId_userId_key" ON project_members ("projectId", "userId");

CREATE TABLE IF NOT EXISTS goals (
    id           text             PRIMARY KEY,
    "userId"     text             NOT NULL REFERENCES users (id) ON UPDATE CASCADE ON DELETE CASCADE,
    "projectId"  text             REFERENCES projects (id) ON UPDATE CASCADE ON DELETE SET NULL,
    title        text             NOT NULL,
    type         text             NOT NULL,
    "targetDate" timestamp(3),
    progress     double precision NOT NULL DEFAULT 0,
    "createdAt"  timestamp(3)     NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt"  timestamp(3)     NOT NULL
);

CREATE TABLE IF NOT EXISTS habits (
    id              text         PRIMARY KEY,
    "userId"        text         NOT NULL REFERENCES users (id) ON UPDATE CASCADE ON DELETE CASCADE,
    "goalId"        text         REFERENCES goals (id) ON UPDATE CASCADE ON DELETE SET NULL,
    name            text         NOT NULL,
    schedule        jsonb        NOT NULL,
    "streakCurrent" integer      NOT NULL DEFAULT 0,
    "streakBest"    integer      NOT NULL DEFAULT 0,
    "createdAt"     timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt"     timestamp(3) NOT NULL
);

CREATE TABLE IF NOT EXISTS tasks (
    id                  text         PRIMARY KEY,
    "userId"            text         NOT NULL REFERENCES users (id) ON UPDATE CASCADE ON DELETE CASCADE,
    title               text         NOT NULL,
    description         text,
    "isCompleted"       boolean      NOT NULL DEFAULT false,
    "dueDate"           timestamp(3),
    priority            integer      NOT NULL DEFAULT 3,
    tags                text[],
    "createdAt"         timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt"         timestamp(3) NOT NULL,
    "deletedAt"         timestamp(3),
    "projectId"         text         REFERENCES projects (id) ON UPDATE CASCADE ON DELETE SET NULL,
    "goalId"            text         REFERENCES goals (id) ON UPDATE CASCADE ON DELETE SET NULL,
    "estimatedDuration" integer,
    "energyLevel"       text,
    metadata            jsonb,
    "rawNlpInput"       text
);
CREATE INDEX IF NOT EXISTS "tasks_userId_isCompleted_dueDate_idx" ON tasks ("userId", "isCompleted", "dueDate");

CREATE TABLE IF NOT EXISTS focus_sessions (
    id                text         PRIMARY KEY,
    "userId"          text         NOT NULL REFERENCES users (id) ON UPDATE CASCADE ON DELETE CASCADE,
    "taskId"          text         REFERENCES tasks (id) ON UPDATE CASCADE ON DELETE SET NULL,
    "plannedDuration" integer      NOT NULL,
    "actualDuration"  integer,
    "startTime"       timestamp(3) NOT NULL,
    "endTime"         timestamp(3),
    "focusRating"     integer,
    "createdAt"       timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX IF NOT EXISTS "focus_sessions_userId_idx" ON focus_sessions ("userId");
CREATE INDEX IF NOT EXISTS "focus_sessions_startTime_idx" ON focus_sessions ("startTime");
