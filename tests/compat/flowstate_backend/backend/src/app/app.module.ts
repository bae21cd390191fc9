// Only the lines that the patch changes, among others.
import { Module } from '@nestjs/common';
import { EmailQueueModule } from '../email-queue/email-queue.module';
import { HealthModule } from '../health/health.module';
import { ProjectsModule } from '../projects/projects.module';
import { SchedulerModule } from '../scheduler/scheduler.module';
import { TasksModule } from '../tasks/tasks.module';

@Module({
  imports: [
    EmailQueueModule,
    SchedulerModule,
    HealthModule,
    ProjectsModule,
    TasksModule,
  ],
})
export class AppModule {}
