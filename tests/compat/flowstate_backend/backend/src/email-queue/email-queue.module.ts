// Only the lines that the patch changes, among others.
import { BullModule } from '@nestjs/bull';
import { Module } from '@nestjs/common';
import { EmailQueueService } from './email-queue.service';
import { EmailProcessor } from './email.processor';

const redisAvailable = Boolean(process.env.REDIS_URL);

@Module({
  imports: [...(redisAvailable ? [BullModule.registerQueue({ name: 'email' })] : [])],
  providers: [
    EmailQueueService,
    // Only register EmailProcessor if Redis is available (it needs the queue)
    ...(redisAvailable ? [EmailProcessor] : []),
  ],
  exports: [EmailQueueService],
})
export class EmailQueueModule {}
